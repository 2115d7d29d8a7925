"""Greedy search for the templates of the best ensemble."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError

__all__ = ["Choice", "ensemble_accuracy", "search_templates"]

_ROWS = 8192  # images scored at a time


class Choice(NamedTuple):
    """Templates in the order in which they were chosen.

    Attributes:
        order: numbers of all templates that were added.
        accuracies: of the ensemble after each, in [0, 1].
        best: how many of them make the best ensemble; the fewest, where several are equal.
    """

    order: list[int]
    accuracies: list[float]
    best: int

    @property
    def chosen(self) -> list[int]:
        """Numbers of the templates of the best ensemble."""
        return self.order[: self.best]


def ensemble_accuracy(image_features: Tensor, label: Tensor, vectors: Tensor) -> float:
    """Top-1 in [0, 1] of the classifier that averages templates in embedding space.

    Args:
        image_features: unit, float (N, D).
        label: int64 (N,).
        vectors: unit features of each template with each class, float (T, C, D).
    """
    return _right(image_features, label, vectors.sum(dim=0)) / len(label)


def search_templates(
    image_features: Tensor,
    label: Tensor,
    vectors: Tensor,
    most: int | None = None,
    progress: Callable[[int, float], None] = lambda template, accuracy: None,
) -> Choice:
    """Greedy forward selection, as OpenAI chose the seven of "imagenet_simple" among the 80 for ImageNet.

    From no template on, the one that makes the ensemble most accurate is added; of equal ones the first. Choose on images that
    the result is not reported on: the choice fits them.

    Args:
        image_features: unit, float (N, D).
        label: int64 (N,).
        vectors: unit features of each template with each class, float (T, C, D).
        most: templates to add at most; None tries all T.
        progress: called with each template that is added and the accuracy it gives.

    Raises:
        InputError: no image, or no template.

    Examples:
        >>> classes = torch.eye(2)
        >>> search_templates(classes, torch.tensor([0, 1]), torch.stack([classes.flip(0), classes])).chosen
        [1]
    """
    if not len(label) or not len(vectors):
        raise InputError(f"a search needs images (got {len(label)}) and templates (got {len(vectors)})")
    total = torch.zeros_like(vectors[0])
    left, order = list(range(len(vectors))), list[int]()
    accuracies: list[float] = []
    while left and len(order) < (most or len(vectors)):
        right = [_right(image_features, label, total + vectors[template]) for template in left]
        added = left.pop(right.index(max(right)))
        total = total + vectors[added]
        order.append(added)
        accuracies.append(max(right) / len(label))
        progress(added, accuracies[-1])
    return Choice(order, accuracies, 1 + accuracies.index(max(accuracies)))


def _right(image_features: Tensor, label: Tensor, total: Tensor) -> int:
    """Images whose class has the nearest sum of vectors."""
    classifier = normalize(total, dim=-1).T
    parts = zip(torch.split(image_features, _ROWS), torch.split(label, _ROWS), strict=True)
    return sum(int(((rows @ classifier).argmax(dim=1) == truth).sum()) for rows, truth in parts)
