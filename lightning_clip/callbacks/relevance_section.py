"""Where a model looks: a few examples of a set with the relevance of their classes laid over, as a section."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_clip.callbacks.zero_shot import ZeroShotClassification, ZeroShotResult
from lightning_clip.evaluation.relevance_examples import CLASSES_TEXT, class_cells, explained, relevance_section
from lightning_clip.model.predictor import predictor_of
from lightning_clip.reporting.html import Section

__all__ = ["relevance_sections"]

_EXAMPLES = 4


def relevance_sections(
    trainer: pl.Trainer, module: pl.LightningModule, callbacks: Sequence[ZeroShotClassification]
) -> list[Section]:
    """Pictures of the first set with where their class, and the answer where it is another, are seen in them.

    None for towers without features of places, and under strategies whose passes all ranks make together.

    Args:
        trainer: of the run.
        module: with a predictor.
        callbacks: whose examples are explained.
    """
    result = next((result for callback in callbacks for result in callback.results.values() if result.examples), None)
    if result is None or getattr(trainer.strategy, "passes_are_collective", False):
        return []
    predictor, names = predictor_of(module), result.class_names
    with torch.inference_mode(False):  # a test runs in it, gradients are not to be had there
        cells = explained(
            [
                partial(class_cells, predictor, image.cpu().clone(), names, true, answer)
                for image, true, answer in _chosen(result)
            ]
        )
    if not cells:
        return []
    return [relevance_section("Where it looks", CLASSES_TEXT, cells)]


def _chosen(result: ZeroShotResult) -> list[tuple[Tensor, int, int]]:
    """Wrong answers first, half of them at most; classes that were not shown yet before others."""
    wrong = [example for example in result.examples if example[1] != example[2]][: _EXAMPLES // 2]
    right = [example for example in result.examples if example[1] == example[2]]
    first = list({example[1]: example for example in reversed(right)}.values())[::-1]
    found = [*wrong, *first, *right][:_EXAMPLES]
    return [(image, true, answer) for image, true, answer, _ in found]
