"""Where a model looks, in the report of `evaluate`: classes after zero-shot classification, words after retrieval."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import save_checkpoint, small_module
from torch import nn

from lightning_clip.cli import main
from lightning_clip.encoders import ImageEncoder
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.relevance_examples import explained, relevance_sections, word_cells
from lightning_clip.evaluation.run_suite import Outcome, run_suite
from lightning_clip.evaluation.suite import Suite

SHAPES = {"name": "synthetic", "held_out": True, "size": 12, "image_size": 32}


def measured(tmp_path: Path, model: Any) -> Outcome:
    sets = {"shapes": {**SHAPES, "protocols": ["zero_shot", "retrieval"]}}
    return run_suite(Suite(sets, output=str(tmp_path / "out")), [model])


def captions(section: Any) -> list[str]:
    ((_, sheet),) = section.figures
    return [cell.caption.replace("\n", " ") for cell in sheet.cells]


@pytest.fixture(scope="module")
def model() -> PredictorModel:
    torch.manual_seed(0)
    return PredictorModel(small_module().eval().predictor, "small")


def sections(outcome: Outcome, protocol: str) -> list[Any]:
    of_set = outcome.results["shapes"][protocol]
    return relevance_sections(outcome.opened, of_set, outcome.protocols["shapes"][protocol], outcome.datasets["shapes"])


def test_classes_and_words(tmp_path: Path, model: PredictorModel) -> None:
    outcome = measured(tmp_path, model)
    assert not outcome.failures
    (classes,), (words,) = sections(outcome, "zero_shot"), sections(outcome, "retrieval")
    assert classes.title == words.title == "small: where it looks"
    shown, names = captions(classes), outcome.datasets["shapes"].names
    true = [text.removeprefix("a picture of: ") for text in shown if text.startswith("a picture of: ")]
    assert 2 <= len(true) <= 4 and set(true) <= set(names)
    assert all(f"where: {name}" in shown for name in true)
    assert [text for text in shown if text.startswith("the answer: ")]  # the small model is wrong at times
    place, which, *_ = outcome.results["shapes"]["retrieval"]["small"].details["examples"][0]
    caption = outcome.datasets["shapes"].source.captions(place)[which]
    assert captions(words)[:2] == [caption, f"where: {caption}"]
    assert all(text.startswith("where: ") and text[7:] in caption.split() for text in captions(words)[2:4])


def test_only_words_that_stand_for_something(model: PredictorModel) -> None:
    cells = word_cells(model.predictor, torch.zeros(3, 40, 50, dtype=torch.uint8), "a photo of the red boat on a lake")
    assert [text.replace("\n", " ") for _, text in cells][2:] == ["where: red", "where: boat", "where: lake"]
    assert all(pixels.shape == (3, 32, 32) and pixels.dtype == torch.uint8 for pixels, _ in cells)


def test_left_out_for_others(tmp_path: Path, model: PredictorModel, caplog: pytest.LogCaptureFixture) -> None:
    """A model of another library, a tower that pools before any place can be told, no memory."""

    class Blind(EvaluatedModel):
        scale = 100.0

        def encode_image(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.ones(len(image), 1), torch.ones(len(image), 1)

        def encode_text(self, texts: Any, batch_size: int = 256) -> torch.Tensor:
            return torch.ones(len(texts), 1)

    outcome = measured(tmp_path, Blind("blind", 32))
    assert sections(outcome, "zero_shot") == sections(outcome, "retrieval") == []

    def broken() -> Any:
        raise RuntimeError("CUDA out of memory.\nTried a lot")

    assert explained([broken]) == [] and "could not be drawn: CUDA out of memory. Tried a lot" in caplog.text


def test_a_tower_without_places(tmp_path: Path) -> None:
    class MeanColour(ImageEncoder):
        def __init__(self) -> None:
            super().__init__(output_dim=8, image_size=32)
            self.layer = nn.Linear(3, 8)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.layer(image.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    outcome = measured(tmp_path, PredictorModel(small_module(image_encoder=MeanColour()).eval().predictor, "flat"))
    assert not outcome.failures and sections(outcome, "zero_shot") == []


def test_in_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "small.ckpt")
    (tmp_path / "suite.yaml").write_text(
        "sets:\n  shapes: {name: synthetic, held_out: true, size: 12, image_size: 32, protocols: [zero_shot, retrieval]}\n"
    )
    assert main(["evaluate", "--checkpoint", "small.ckpt", "--suite", "suite.yaml", "--output", "out"]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("where it looks") >= 2 and "what it would lose without them" in page
