"""Where a model looks: a few examples of a set with the relevance of their classes laid over, as a section."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_clip.applications.relevance import relevance
from lightning_clip.callbacks.zero_shot import ZeroShotClassification, ZeroShotResult
from lightning_clip.core.errors import InputError
from lightning_clip.model.predictor import Predictor, predictor_of
from lightning_clip.reporting.html import Section
from lightning_clip.reporting.overlays import heated
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["relevance_sections"]

log = logging.getLogger(__name__)
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
    images: list[Tensor] = []
    captions: list[str] = []
    try:
        with torch.inference_mode(False):  # a test runs in it, gradients are not to be had there
            for example in _chosen(result):
                _explain(predictor_of(module), result, example, images, captions)
    except InputError:  # a tower that pools before any place can be told
        return []
    except RuntimeError as error:  # such as no memory: the rest of the report is written
        log.warning("where the model looks could not be drawn: %s", " ".join(str(error).split())[:200])
        return []
    text = "Each picture, then where its class is seen in it and, if the answer was another, where that is: red is most."
    sheet = contact_sheet(images, captions)
    return [Section("Where it looks", text, figures=[("relevance", sheet)])]


def _chosen(result: ZeroShotResult) -> list[tuple[Tensor, int, int]]:
    """Wrong answers first, half of them at most; classes that were not shown yet before others."""
    wrong = [example for example in result.examples if example[1] != example[2]][: _EXAMPLES // 2]
    right = [example for example in result.examples if example[1] == example[2]]
    first = list({example[1]: example for example in reversed(right)}.values())[::-1]
    found = [*wrong, *first, *right][:_EXAMPLES]
    return [(image, true, answer) for image, true, answer, _ in found]


def _explain(
    predictor: Predictor, result: ZeroShotResult, example: tuple[Tensor, int, int], images: list[Tensor], captions: list[str]
) -> None:
    image, true, answer = example
    names = [result.class_names[true], result.class_names[answer]]
    found = relevance(predictor, image.cpu().clone(), names, against=result.class_names[:64])
    maps = found.maps()  # (2, S, S)
    images += [found.picture, heated(found.picture, maps[0])]
    captions += [wrapped(f"a picture of: {names[0]}"), wrapped(f"where: {names[0]}")]
    if true != answer:
        images.append(heated(found.picture, maps[1]))
        captions.append(wrapped(f"the answer: {names[1]}"))
