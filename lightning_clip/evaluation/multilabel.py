"""Measures of a ranking: average precision of classes that images may share, whole and at 11 points; area under the ROC."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.classification import multilabel_average_precision

from lightning_clip.core.errors import InputError

__all__ = ["class_average_precision", "eleven_point_precision", "multilabel_figures", "roc_auc"]

_POINTS = 11  # recalls 0, 0.1, ..., 1


def class_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes that occur of the average precision; images may have several classes.

    Args:
        scores: float (N, C), higher for likelier; -inf for never.
        labels: int64 (N, C) of 1 (there), 0 (not there) and -1 (unsure: the image does not count for that class).

    Raises:
        InputError: no image has any class.
    """
    values, truth = _of_present(scores, labels)
    classes = truth.shape[1]
    if classes == 1:
        return float(multilabel_average_precision(values.expand(-1, 2), truth.expand(-1, 2), 2, ignore_index=-1))
    return float(multilabel_average_precision(values, truth, num_labels=classes, average="macro", ignore_index=-1))


def eleven_point_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean average precision as Pascal VOC 2007 has it: the best precision at or beyond each of the recalls 0, 0.1, ..., 1.

    Args:
        scores: float (N, C), higher for likelier; -inf for never.
        labels: int64 (N, C) of 1 (there), 0 (not there) and -1 (unsure: the image does not count for that class).

    Raises:
        InputError: no image has any class.

    Examples:
        >>> eleven_point_precision(torch.tensor([[0.9], [0.5], [0.1]]), torch.tensor([[1], [0], [1]]))  # (6 + 5 * 2/3) / 11
        0.848...
    """
    values, truth = _of_present(scores, labels)
    found = [_eleven_points(column[sure >= 0], sure[sure >= 0]) for column, sure in zip(values.T, truth.T, strict=True)]
    return sum(found) / len(found)


def multilabel_figures(scores: Tensor, labels: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Both mean average precisions, and what guessing gives: the mean share of images that have a class.

    Args:
        scores: float (N, C), higher for likelier; -inf for never.
        labels: int64 (N, C) of 1, 0 and -1.

    Raises:
        InputError: no image has any class.
    """
    metrics = {
        "mean_average_precision": class_average_precision(scores, labels),
        "eleven_point_map": eleven_point_precision(scores, labels),
    }
    there, sure = (labels == 1).sum(dim=0).double(), (labels >= 0).sum(dim=0).double()
    chance = float((there / sure.clamp(min=1))[there > 0].mean())
    return metrics, {"mean_average_precision": chance}


def roc_auc(scores: Tensor, label: Tensor) -> float:
    """Area under the ROC curve: how often an image of class 1 scores higher than one of class 0, equal scores counting half.

    Args:
        scores: float (N,), higher for class 1.
        label: int64 (N,) of 0 and 1.

    Raises:
        InputError: only one of the classes occurs.

    Examples:
        >>> roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        0.75
    """
    wanted, other = scores[label == 1].double(), scores[label == 0].double().sort().values
    if not len(wanted) or not len(other):
        raise InputError("the area under the ROC curve needs images of both classes: one of them has none")
    below, upto = torch.searchsorted(other, wanted), torch.searchsorted(other, wanted, right=True)
    return float((below + upto).double().mean() / 2 / len(other))


def _of_present(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in [0, 1] and labels of the classes that occur."""
    present = (labels == 1).any(dim=0)
    if not present.any():
        raise InputError("no image has any of the classes: mean average precision needs at least one")
    chosen, truth = scores[:, present].double(), labels[:, present]
    finite = chosen[chosen.isfinite()]
    low, high = finite.min(), finite.max()
    return ((chosen - low) / (high - low).clamp(min=1e-12)).clamp(min=0), truth  # torchmetrics takes these as they are


def _eleven_points(scores: Tensor, truth: Tensor) -> float:
    """Of one class: scores (N,), truth (N,) of 0 and 1; equal scores are ranked with the wrong ones first."""
    order = truth.argsort(stable=True)
    order = order[scores[order].argsort(descending=True, stable=True)]
    right = truth[order].double().cumsum(dim=0)  # (N,) found up to each rank
    precision = right / torch.arange(1, len(right) + 1, dtype=torch.float64)
    recall = right / right[-1]
    points = torch.arange(_POINTS, dtype=torch.float64) / (_POINTS - 1)
    best = [float(precision[recall >= point - 1e-12].max()) for point in points]
    return sum(best) / _POINTS
