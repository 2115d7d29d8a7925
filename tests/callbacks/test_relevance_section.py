"""Where a model looks, in its report: wrong answers first, and nothing for a tower that has no places."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import small_module, small_trainer

from lightning_clip import InputError, ZeroShotClassification
from lightning_clip.callbacks.relevance_section import relevance_sections
from lightning_clip.callbacks.zero_shot import ZeroShotResult
from lightning_clip.evaluation import relevance_examples
from lightning_clip.reporting.overlays import heated


@pytest.fixture
def callback() -> ZeroShotClassification:
    found = ZeroShotClassification({})
    image = torch.randint(0, 255, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    examples = [(image, 0, 0, 0.9), (image, 0, 0, 0.9), (image, 1, 1, 0.8), (image, 1, 0, 0.7)]
    found.results = {"mine": ZeroShotResult({}, 0.5, ["cat", "dog"], torch.eye(2).long(), examples)}
    return found


def test_wrong_answers_first_and_each_with_its_class(tmp_path: Path, callback: ZeroShotClassification) -> None:
    module = small_module()
    module.configure_model()
    (section,) = relevance_sections(small_trainer(tmp_path), module, [callback])
    ((_, sheet),) = section.figures
    captions = [cell.caption.replace("\n", " ") for cell in sheet.cells]  # type: ignore[attr-defined]
    assert captions[:3] == ["a picture of: dog", "where: dog", "the answer: cat"]
    assert captions[3:7] == ["a picture of: cat", "where: cat", "a picture of: dog", "where: dog"] and len(captions) == 9


def test_none_where_it_cannot_be(tmp_path: Path, callback: ZeroShotClassification, monkeypatch: pytest.MonkeyPatch) -> None:
    sharded: Any = SimpleNamespace(strategy=SimpleNamespace(passes_are_collective=True))
    assert relevance_sections(sharded, small_module(), [callback]) == []
    assert relevance_sections(small_trainer(tmp_path), small_module(), []) == []

    def without_places(*_: Any, **__: Any) -> None:
        raise InputError("tower has no features of places")

    monkeypatch.setattr(relevance_examples, "relevance", without_places)
    assert relevance_sections(small_trainer(tmp_path), small_module(), [callback]) == []


def test_heat_is_red_where_the_map_is_most() -> None:
    heat = torch.zeros(4, 4)
    heat[0, 0] = 2.0
    found = heated(torch.full((3, 4, 4), 100, dtype=torch.uint8), heat)
    assert found.dtype == torch.uint8 and found[0, 0, 0] > found[2, 0, 0] and found[2, 3, 3] > found[0, 3, 3]
