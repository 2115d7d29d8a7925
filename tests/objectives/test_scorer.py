"""An objective decides how images are scored: evaluation asks its scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from small import small_data, small_module, small_trainer
from torch import Tensor

from lightning_clip import ZeroShotClassification
from lightning_clip.model.predictor import Predictor
from lightning_clip.objectives import ContrastivePairs, WeightedSum

SET = {"name": "synthetic", "held_out": True, "size": 16, "image_size": 32, "templates": ["a {}"]}


class Stubborn(ContrastivePairs):
    """Answers the last class, whatever the image."""

    def scorer(
        self, predictor: Predictor, class_names: Sequence[str], templates: str | Sequence[str] = "simple"
    ) -> Callable[[Any], Tensor]:
        last = torch.zeros(len(class_names)).index_fill(0, torch.tensor([len(class_names) - 1]), 1.0)
        return lambda images: last.expand(len(images), -1)


def test_by_default_similarity() -> None:
    predictor = small_module().predictor
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    found = predictor.scorer(["cat", "dog"])(images)
    expected = predictor.scale() * predictor.encode_image(images) @ predictor.zero_shot_classifier(["cat", "dog"])
    assert torch.equal(found, expected) and found.shape == (3, 2)


def test_zero_shot_while_training_asks_the_objective(tmp_path: Path) -> None:
    """One class in eight is the last one: the stubborn objective is right there and nowhere else."""
    trainer = small_trainer(tmp_path, max_steps=4, callbacks=[ZeroShotClassification({"held_out": SET})])
    trainer.fit(small_module(objective=Stubborn()), small_data())
    assert float(trainer.callback_metrics["val/zero_shot/held_out/top1"]) == 1 / 8


def test_of_several_the_first_answers() -> None:
    both = WeightedSum([("stubborn", 1.0, Stubborn()), ("pairs", 1.0, ContrastivePairs())])
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    scores = both.scorer(small_module().predictor, ["cat", "dog"])(images)
    assert scores.argmax(dim=1).tolist() == [1, 1]
