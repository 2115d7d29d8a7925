"""Scorers: images against classes or texts by more than similarity, as an objective may bring them to its predictor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import image_parts
from lightning_clip.prompts.classifier import ClassNames

__all__ = ["Scorer", "Scoring", "own_scorer", "own_text_scorer"]

Scorer = Callable[[Any], Tensor]  # images -> scores (B, C)
# A `Predictor` is Any below: its file imports this one.


class Scoring(Protocol):
    """What a predictor asks how images are scored; every `Objective` is one."""

    def scorer(self, predictor: Any, class_names: ClassNames, templates: str | Sequence[str] = "simple") -> Scorer | None:
        """A function images -> scores (B, C) against classes; None for similarities to their prompts."""
        ...

    def text_scorer(self, predictor: Any, text_features: Tensor) -> Scorer | None:
        """A function images -> scores (B, N) against N encoded texts (N, D); None for similarities."""
        ...

    def to_mapping(self) -> Any:
        """A plain mapping, in which scorers of one kind differ where their scores do."""
        ...


def own_scorer(
    predictor: Any, class_names: ClassNames, templates: str | Sequence[str] = "simple", batch_size: int = 256
) -> Scorer | None:
    """What a model's objective scores these classes by; None where that is similarity to their prompts.

    Args:
        predictor: of the model.
        class_names: as for `Predictor.zero_shot_classifier`.
        templates: as for `Predictor.zero_shot_classifier`.
        batch_size: images at a time, at least 1.
    """
    scoring = predictor.scoring
    return (
        None
        if scoring is None
        else _in_parts(lambda: scoring.scorer(predictor, class_names, templates), predictor.model, batch_size)
    )


def own_text_scorer(predictor: Any, text_features: Tensor, batch_size: int = 256) -> Scorer | None:
    """What a model's objective scores texts by; None where that is similarity.

    Args:
        predictor: of the model.
        text_features: (N, D), as `Predictor.encode_text` gives them.
        batch_size: images at a time, at least 1.
    """
    scoring = predictor.scoring
    return (
        None
        if scoring is None
        else _in_parts(lambda: scoring.text_scorer(predictor, text_features), predictor.model, batch_size)
    )


def _in_parts(make: Callable[[], Scorer | None], model: nn.Module, batch_size: int) -> Scorer | None:
    """A scorer that sees the model in evaluation mode, without gradients, and so many images at a time."""
    with evaluating(model):
        score = make()
    if score is None:
        return None

    def scores(images: Any) -> Tensor:
        with evaluating(model):
            return torch.cat([score(part) for part in image_parts(images, batch_size)])  # -> (B, C)

    return scores
