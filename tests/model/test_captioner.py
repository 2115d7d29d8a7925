"""Captions: beam search against all captions there are, the nucleus, the command, and scores."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from objectives.test_coca import CONFIG, OWN
from small import save_checkpoint, small_module, write_folder
from torch import Tensor

from lightning_clip import InputError
from lightning_clip.cli import main
from lightning_clip.data import train_tokenizer
from lightning_clip.data.clip_tokenizer import ClipTokenizer
from lightning_clip.metrics.captions import caption_scores
from lightning_clip.model.caption_search import beam_search, nucleus_sampling
from lightning_clip.model.captioner import Captioner

START, END, VOCABULARY = 0, 1, 5


def language(rows: Tensor, ids: Tensor, came_from: Tensor | None = None) -> Tensor:
    """Random log-probabilities of the next of five ids, which image and beginning decide."""
    found = []
    for row, beginning in zip(rows.tolist(), ids.tolist(), strict=True):
        seed = row + sum((place + 1) * 31 ** (1 + number) for number, place in enumerate(beginning))
        found.append(torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(seed % 2**31)))
    return torch.stack(found).log_softmax(dim=1)


def score(image: int, caption: tuple[int, ...]) -> float:
    """Sum of the log-probabilities of a caption and its end."""
    ids, total = [START], 0.0
    for place in (*caption, END):
        total += float(language(torch.tensor([image]), torch.tensor([ids]))[0, place])
        ids.append(place)
    return total


class TestBeamSearch:
    @pytest.mark.parametrize("length_penalty", [0.0, 1.0])
    def test_wide_beams_find_the_best_of_all_captions(self, length_penalty: float) -> None:
        found = beam_search(language, 3, START, END, beams=60, max_tokens=3, length_penalty=length_penalty)
        for image in range(3):
            every = [caption for length in range(4) for caption in itertools.product(range(2, VOCABULARY), repeat=length)]
            best = max(every, key=lambda caption: score(image, caption) / (len(caption) + 1) ** length_penalty)
            assert tuple(found[image]) == best

    def test_one_beam_takes_the_most_probable_id_each_time(self) -> None:
        found = beam_search(language, 2, START, END, beams=1, max_tokens=6)
        for image in range(2):
            ids = [START]
            while len(ids) <= 6:
                logs = language(torch.tensor([image]), torch.tensor([ids]))[0]
                logs[START] = -torch.inf
                if (best := int(logs.argmax())) == END:
                    break
                ids.append(best)
            assert found[image] == ids[1:]

    def test_a_caption_without_an_end_is_cut(self) -> None:
        never = torch.tensor([[0.0, -1e3, 0.0, -5.0, -5.0]]).log_softmax(dim=1)
        found = beam_search(
            lambda rows, ids, came_from: never.expand(len(ids), -1).clone(), 1, START, END, beams=2, max_tokens=4
        )
        assert found == [[2, 2, 2, 2]]


class TestNucleus:
    def draw(self, top_p: float, numbers: Any = range(400), seed: int = 0, temperature: float = 1.0) -> list[list[int]]:
        shares = torch.tensor([[1e-9, 0.1, 0.5, 0.3, 0.1]])
        options = {"top_p": top_p, "temperature": temperature, "max_tokens": 1, "seed": seed}
        return nucleus_sampling(
            lambda rows, ids, came_from: shares.log().expand(len(ids), -1).clone(), numbers, START, END, **options
        )

    def test_only_the_nucleus_is_drawn_in_its_proportions(self) -> None:
        drawn = [row[0] for row in self.draw(0.7)]
        assert set(drawn) == {2, 3}
        assert drawn.count(2) / 400 == pytest.approx(5 / 8, abs=0.08)
        assert {row[0] for row in self.draw(0.5)} == {2}

    def test_seed_and_number_decide_not_the_batch(self) -> None:
        whole = self.draw(1.0)
        assert self.draw(1.0, range(200, 400)) == whole[200:] and self.draw(1.0, seed=1) != whole


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["a red cube and a blue ball", "picture 1 of a dog"], 300, 16).to_mapping()
    torch.manual_seed(0)
    return save_checkpoint(tmp_path_factory.mktemp("coca") / "coca.ckpt", small_module(objective=OWN, tokenizer=tokenizer))


class TestCommand:
    @pytest.mark.parametrize("method", ["beam", "greedy", "nucleus"])
    def test_pictures(self, method: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        write_folder(tmp_path / "set", count=3)
        pictures = [str(tmp_path / "set" / f"{number}.jpg") for number in range(3)]
        options = ["--checkpoint", str(checkpoint), "--method", method, "--max-tokens", "5", "--json"]
        printed = []
        for size in ("1", "3"):
            assert main(["caption", *pictures, *options, "--batch-size", size]) == 0
            printed.append([json.loads(line) for line in capsys.readouterr().out.splitlines()])
        assert [row["image"] for row in printed[0]] == ["0.jpg", "1.jpg", "2.jpg"]
        assert printed[0] == printed[1] and all(isinstance(row["caption"], str) for row in printed[0])

    def test_a_set_with_scores(self, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        table = write_folder(tmp_path / "set", count=4)
        arguments = ["caption", "--data", str(table), "--limit", "3", "--checkpoint", str(checkpoint), "--max-tokens", "4"]
        assert main(arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 4 and lines[-1].startswith("bleu4 0.")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "caption describes pictures .IMAGE .... or a set .--data.: name one of them"),
            (["no.jpg"], "no.jpg"),
            (["IMAGE", "--method", "best"], "unknown method 'best'"),
            (["IMAGE", "--beams", "0"], "beams 0 must be a whole number >= 1"),
            (["IMAGE", "--top-p", "0"], "top_p 0.0 must be a number > 0 and <= 1"),
            (["IMAGE", "--max-tokens", "99"], "max_tokens 99 must be a whole number >= 1 and <= 14"),
        ],
    )
    def test_mistakes(
        self, arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        import re

        write_folder(tmp_path / "set", count=1)
        given = [str(tmp_path / "set" / "0.jpg") if value == "IMAGE" else value for value in arguments]
        assert main(["caption", *given, "--checkpoint", str(checkpoint)]) != 0
        assert re.search(message, capsys.readouterr().err)

    def test_a_model_without_a_decoder(self) -> None:
        with pytest.raises(
            InputError, match="has no decoder that writes captions: train with objective 'coca' or 'captioning', or"
        ):
            Captioner(small_module().predictor)


def test_generated_as_by_open_clip(tmp_path: Path) -> None:
    """Greedy captions of the same weights: the most probable ids by open_clip's model, step by step."""
    import open_clip

    from lightning_clip import ClipModule

    torch.manual_seed(0)
    model = open_clip.CoCa(**{key: value for key, value in CONFIG.items() if key != "custom_text"}).eval()
    torch.nn.init.normal_(model.text_decoder.text_projection, std=0.2)
    torch.save(model.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    size = {"size": 64, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": size}))
    captioner = Captioner(ClipModule.from_pretrained(tmp_path).predictor, "greedy", max_tokens=6)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ids = torch.full((2, 1), 49406)
    with torch.no_grad():
        for _ in range(6):
            logits = model((pixels.float() / 255 - 0.5) / 0.25, ids, output_labels=False)["logits"][:, -1]
            logits[:, 49406] = -torch.inf
            ids = torch.cat([ids, logits.argmax(dim=1, keepdim=True)], dim=1)
    assert 49407 not in ids
    expected = ids[:, 1:].tolist()
    assert captioner._ids(pixels, 0) == expected
    assert captioner(pixels) == captioner.predictor.tokenizer.decode(expected)  # type: ignore[union-attr]


class TestWords:
    def test_clip_s_ids_back_to_text(self) -> None:
        tokenizer = ClipTokenizer(24, ["Größe3"])
        texts = ["a photo of a dog, in the rain!", "東京の夜 cafés", "zwei Größe3 da"]
        found = tokenizer.decode(tokenizer.encode(texts))
        assert found[0] == "a photo of a dog , in the rain !" and found[1].replace(" ", "") == "東京の夜cafés"
        assert found[2] == "zwei Größe3 da"

    def test_bleu_of_a_part(self) -> None:
        """Four of six words and so on, by hand: precisions 4/4, 3/3, 2/2, 1/1 and the penalty of a short caption."""
        found = caption_scores(["a dog runs on"], [["A dog runs on the grass."]])
        assert found["bleu4"] == pytest.approx(math.exp(1 - 6 / 4), rel=1e-4)
        assert caption_scores(["一只狗在跑步"], [["一只狗在跑步"]])["bleu4"] == 1.0

    def test_cider(self) -> None:
        pytest.importorskip("pycocoevalcap")
        references = [["a dog runs on the grass", "a dog outside"], ["two red cubes", "red cubes on a table"]]
        good = caption_scores([texts[0] for texts in references], references)["cider"]
        assert good > 1 > caption_scores(["two red cubes", "a dog runs on the grass"], references)["cider"]

    def test_mistakes(self) -> None:
        with pytest.raises(InputError, match="1 captions and 2 references: give each image a caption and references"):
            caption_scores(["a dog"], [["a dog"], ["a cat"]])
