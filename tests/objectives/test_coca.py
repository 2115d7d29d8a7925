"""CoCa: open_clip's model with the same random weights in and out, the formula, ranks and slices, mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from distributed.ranks import run_ranks
from objectives.published import METHODS, batch_of, published, step_gradients
from small import IMAGE, TEXT, small_data, small_module, small_trainer
from torch import Tensor
from variants.senses import error_of

from lightning_clip import ClipModule, InputError
from lightning_clip.core.types import Tokens
from lightning_clip.data import train_tokenizer
from lightning_clip.data.synthetic import SyntheticScenes
from lightning_clip.export.export import export

VIT = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 16, "image_size": 64}
CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "custom_text": True,
    "vision_cfg": {**VIT, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4, "output_tokens": True},
    "text_cfg": {"layers": 1, "width": 32, "heads": 4, "context_length": 24, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {"layers": 2, "width": 32, "heads": 4, "context_length": 24, "attn_pooler_heads": 4},
}
CAPTIONS = ["a dog", "two cats on a red mat", "rain"]
OWN = {"name": "coca", "decoder": {"layers": 1, "heads": 2, "queries": 3}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CoCa of open_clip with random weights, as open_clip keeps a model."""
    place = tmp_path_factory.mktemp("coca")
    torch.manual_seed(0)
    config = {key: value for key, value in CONFIG.items() if key != "custom_text"}
    model = open_clip.CoCa(**config)
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.2)
    torch.save(model.state_dict(), place / "open_clip_pytorch_model.bin")
    size = {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (place / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": size}))
    return place


def theirs(folder: Path) -> Any:
    return open_clip.create_model(f"local-dir:{folder}").eval()


def our_logits(module: ClipModule, pixels: Tensor) -> Tensor:
    model: Any = module.model
    tokens, mask = module.tokenizer(CAPTIONS)  # type: ignore[misc]
    with torch.no_grad():
        image = model.encode_with_tokens("image", pixels)[1]
        text = model.encode_with_tokens("text", Tokens(tokens, mask))[1]
        found: Tensor = model.captioner(model.captioner.read(image), text[:, :-1])
    return found


class TestOpenClip:
    def test_features_and_caption_logits(self, folder: Path) -> None:
        model, module = theirs(folder), ClipModule.from_pretrained(folder)
        assert module.objective.to_mapping()["name"] == "coca"
        pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
        with torch.no_grad():
            expected = model((pixels.float() / 255 - 0.5) / 0.25, tokens)
        assert (module.encode_image(pixels) - expected["image_features"]).abs().max() <= 1e-5
        assert (module.encode_text(CAPTIONS) - expected["text_features"]).abs().max() <= 1e-5
        logits = our_logits(module, pixels)
        assert logits.abs().max() > 0.1
        assert (logits - expected["logits"][:, : logits.shape[1]]).abs().max() <= 1e-5

    def test_the_round_trip_is_identical(self, folder: Path, tmp_path: Path) -> None:
        export(ClipModule.from_pretrained(folder), "open_clip", tmp_path / "out")
        before, after = theirs(folder).state_dict(), theirs(tmp_path / "out").state_dict()
        assert set(after) == set(before) and all(torch.equal(after[key], value) for key, value in before.items())
        config = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]
        assert open_clip.coca_model.MultimodalCfg(**config["multimodal_cfg"]).layers == 2

    def test_our_own_format_and_checkpoints_keep_the_decoder(self, folder: Path, tmp_path: Path) -> None:
        module = ClipModule.from_pretrained(folder)
        export(module, "safetensors", tmp_path / "out")
        trainer = small_trainer(tmp_path)
        trainer.strategy.connect(module)
        trainer.save_checkpoint(tmp_path / "coca.ckpt")
        pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
        expected = our_logits(module.eval(), pixels)
        for again in (
            ClipModule.from_pretrained(tmp_path / "out"),
            ClipModule.from_pretrained(tmp_path / "coca.ckpt"),
            ClipModule.load_from_checkpoint(tmp_path / "coca.ckpt"),
        ):
            assert torch.equal(our_logits(again, pixels), expected)

    def test_without_the_decoder(self, folder: Path, tmp_path: Path) -> None:
        """Trained on for pairs alone, it is a model of two towers; and formats of those export it."""
        module = ClipModule.from_pretrained(folder, objective="pairs")
        assert not hasattr(module.model, "captioner")
        export(module, "open_clip", tmp_path / "out")
        assert not hasattr(theirs(tmp_path / "out"), "text_decoder")


def test_the_loss_is_the_formula_s() -> None:
    """Pairs plus twice the mean over captions of the mean over their tokens, by loops over the decoder's logits."""
    METHODS["coca"] = {"objective": OWN}
    module = published("coca").train()
    batch = batch_of(module, 4)
    with torch.no_grad():
        output = module.encode_batch(batch)
        parts = module.compute_loss(output, batch)
        model: Any = module.model
        image = model.captioner.read(model.encode_with_tokens("image", batch.image)[1])
        text = model.encode_with_tokens("text", batch.value("text"))[1]
        logits = model.captioner(image, text).double()
    total = 0.0
    for row in range(4):
        ids = batch.tokens[row][batch.mask[row]].tolist()  # type: ignore[index]
        logs = [logits[row, place].log_softmax(0)[ids[place + 1]] for place in range(len(ids) - 1)]
        total -= float(sum(logs)) / len(logs) / 4
    assert float(parts["caption"]) == pytest.approx(total, rel=1e-6)
    assert float(parts["loss"]) == pytest.approx(float(parts["pairs"]) + 2 * total, rel=1e-6)
    assert total == pytest.approx(math.log(49408), rel=0.2)


def _on_rank(rank: int, world_size: int) -> dict[str, Tensor]:
    METHODS["coca"] = {"objective": OWN}
    return step_gradients("coca", 4, rank)


def test_gradients_in_slices_and_on_ranks() -> None:
    METHODS["coca"] = {"objective": OWN}
    expected = step_gradients("coca")
    assert any(name.startswith("model.captioner.pool") for name in expected)
    assert error_of(step_gradients("coca", 4), expected) <= 1e-6
    for found in run_ranks(_on_rank, 2):
        assert error_of(found, expected) <= 2e-6


def test_it_learns_captions_and_resumes(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([pair.captions[0] for pair in SyntheticScenes(size=50)], 300, 24).to_mapping()

    def run(steps: int, seed: int, resume: Path | None = None) -> tuple[Any, dict[str, Tensor]]:
        torch.manual_seed(seed)
        optimizer = {"lr": 3e-3, "warmup_steps": 0, "schedule": "constant"}
        module = small_module(objective=OWN, optimizer=optimizer, tokenizer=tokenizer)
        trainer = small_trainer(tmp_path, max_steps=steps)
        trainer.fit(module, small_data(size=64, batch=16), ckpt_path=resume)
        return trainer, {name: value.clone() for name, value in module.state_dict().items()}

    trainer, _ = run(4, 0)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    whole_trainer, whole = run(12, 0)
    again = run(12, 5, tmp_path / "half.ckpt")[1]
    assert all(torch.equal(again[name], value) for name, value in whole.items())
    assert whole_trainer.callback_metrics["train/caption"] < 5.0 < math.log(300)


class TestMistakes:
    @pytest.mark.parametrize(
        ("objective", "message"),
        [
            ({"name": "coca", "decoder": {"depth": 2}}, "coca: decoder has no setting 'depth'"),
            ({"name": "coca", "caption_weight": -1}, "coca: caption_weight -1 must be a number >= 0"),
            ({"name": "coca", "decoder": {"heads": 5}}, "decoder heads 5 must divide its width 32"),
            (
                {"name": "coca", "decoder": {"context_length": 8}},
                "the decoder's context_length 8 is shorter than the tokenizer's",
            ),
        ],
    )
    def test_settings(self, objective: Any, message: str) -> None:
        with pytest.raises(InputError, match=message):
            small_module(objective=objective).configure_model()

    def test_a_text_tower_that_looks_ahead(self) -> None:
        text = {"name": "open_clip", "embed_dim": 16, "config": {"layers": 1, "width": 32, "heads": 2, "no_causal_mask": True}}
        with pytest.raises(InputError, match="sees the words that follow, which the decoder is to predict: use a causal one"):
            ClipModule(IMAGE, text, embed_dim=16, objective=OWN).configure_model()

    def test_captions_longer_than_the_decoder_s_context(self) -> None:
        module = ClipModule(IMAGE, TEXT, embed_dim=16, objective=OWN, tokenizer={"name": "clip", "context_length": 8})
        captioner: Any = module.model.captioner
        with pytest.raises(InputError, match="captions of 9 tokens exceed the decoder's context_length 8"):
            captioner(torch.zeros(1, 3, 32), torch.zeros(1, 9, 32))
