"""The filter `concept`: its probability is the softmax of the model's scores, in batches of any size; mistakes in one line."""

from __future__ import annotations

import pickle

import pytest
import torch
from small import save_checkpoint

from lightning_clip import ClipModule, InputError
from lightning_clip.curation.filters import CONCEPTS, Concept, Looked, pair_filters
from lightning_clip.data import SyntheticScenes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "a.ckpt"
    torch.manual_seed(0)
    save_checkpoint(path)
    return str(path)


def looked(count: int = 9) -> list[Looked]:
    scenes = SyntheticScenes("test", count, image_size=32)
    return [Looked(("a scene",), scenes[place].image, {}) for place in range(count)]  # type: ignore[arg-type]


def test_probability_by_hand(checkpoint: str) -> None:
    found = Concept(checkpoint, ["a red circle", "a red square"], ["a blue star"], most=0.6).probabilities(looked())
    module = ClipModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    texts = module.encode_text(["a red circle", "a red square", "a blue star"])
    for sample, share in zip(looked(), found, strict=True):
        pixels = module.image_transform(train=False)(sample.pixels)
        with torch.no_grad():
            scores = module.predictor.scale() * module.encode_image(pixels[None])[0] @ texts.T
        assert share == pytest.approx(float(torch.softmax(scores, dim=0)[:2].sum()), abs=1e-4)


def test_verdicts_do_not_depend_on_the_batch(checkpoint: str) -> None:
    shares = Concept(checkpoint, "faces").probabilities(looked())
    middle = sorted(shares)[len(shares) // 2]
    for size in (1, 4, 64):
        chosen = Concept(checkpoint, "faces", most=middle, batch_size=size)
        assert chosen.passes(looked()) == [share <= middle for share in shares]
    assert 0 < sum(share <= middle for share in shares) < len(shares)


def test_by_name_and_sent_to_workers(checkpoint: str) -> None:
    chosen = pair_filters.build({"name": "concept", "checkpoint": checkpoint, "concept": "nsfw", "most": 0.25})
    assert chosen.reason == "nsfw: probability above 0.25" and chosen.prompts == CONCEPTS["nsfw"]  # type: ignore[attr-defined]
    before = chosen.passes(looked(2))
    again = pickle.loads(pickle.dumps(chosen))
    assert again._loaded is None and again._scorer is None and again.passes(looked(2)) == before


def test_mistakes(checkpoint: str) -> None:
    with pytest.raises(InputError, match="filter concept knows no 'nfsw': did you mean 'nsfw'"):
        Concept(checkpoint, "nfsw")
    with pytest.raises(InputError, match="needs at least one prompt for the concept and one for what else"):
        Concept(checkpoint, [])
    with pytest.raises(InputError, match="filter concept: most 2"):
        Concept(checkpoint, most=2)
    with pytest.raises(InputError, match="checkpoint 'gone.ckpt' does not exist"):
        Concept("gone.ckpt")
