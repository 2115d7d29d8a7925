"""Zero-shot accuracy from batches of logits and labels: top-1, top-5, mean per class and the confusion matrix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from lightning_clip.core.errors import InputError

__all__ = ["ZeroShotAccuracy"]


class ZeroShotAccuracy(MetricCollection):
    """Accuracy of class scores over any number of batches and ranks (Radford et al. 2021, section 3.1).

    `compute` gives "top1" and "top5" (share of all images, in [0, 1]; "top5" is 1 where there are at most five
    classes), "mean_per_class" (mean accuracy of those classes that occur among the labels, in [0, 1]) and "confusion"
    (int64 (C, C), rows are true classes, columns predicted ones).

    Of equal scores the one with the lower class number comes first, on every device and for every k. A model that
    scores all classes the same thus always predicts class 0: it is at chance on balanced labels.

    Args:
        num_classes: C, at least 2. The confusion matrix takes 8 C^2 bytes.

    Raises:
        InputError: fewer than two classes; in `update`, scores that are not finite, shapes that do not fit or labels
            outside [0, C); in `compute`, no image at all.

    Examples:
        >>> metric = ZeroShotAccuracy(3)
        >>> metric.update(torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.1, 0.8]]), torch.tensor([0, 1]))
        >>> values = metric.compute()
        >>> values["top1"].item(), values["top5"].item(), values["mean_per_class"].item()
        (0.5, 1.0, 0.5)
        >>> values["confusion"].tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """

    def __init__(self, num_classes: int) -> None:
        if num_classes < 2:
            raise InputError(f"num_classes {num_classes} is too few: zero-shot classification needs at least 2 class names")
        options: dict[str, Any] = {"num_classes": num_classes, "validate_args": False}
        super().__init__(
            {
                "top1": MulticlassAccuracy(average="micro", top_k=1, **options),
                "top5": _WithinFirst(min(5, num_classes), average="micro", **options),
                "mean_per_class": _MeanPerClass(average="macro", **options),
                "confusion": MulticlassConfusionMatrix(**options),
            },
            compute_groups=False,
        )
        self.num_classes = num_classes

    @property
    def chance(self) -> dict[str, float]:
        """What guessing gives where classes are equally frequent: "top1", "top5" and "mean_per_class" in [0, 1]."""
        return {"top1": 1 / self.num_classes, "top5": min(5, self.num_classes) / self.num_classes,
                "mean_per_class": 1 / self.num_classes}  # fmt: skip

    def figures(self) -> tuple[dict[str, float], Tensor]:
        """What `compute` gives: "top1", "top5" and "mean_per_class" as plain numbers, the confusion int64 (C, C) on the CPU."""
        values = self.compute()
        return {name: float(values[name]) for name in self.chance}, values["confusion"].cpu()

    def update(self, logits: Tensor, label: Tensor) -> None:  # type: ignore[override]
        """Adds scored images.

        Args:
            logits: scores (B, C) of any scale; -inf for a class that is never chosen.
            label: true classes, integers (B,) in [0, C).
        """
        self._check(logits, label)
        if len(label):  # torchmetrics cannot reshape an empty batch
            super().update(_without_ties(logits), label.long())

    def forward(self, logits: Tensor, label: Tensor) -> dict[str, Any]:
        """Adds a batch as `update` does and returns the results of this batch alone.

        Args:
            logits: scores (B, C) of any scale, B at least 1.
            label: true classes, integers (B,) in [0, C).

        Raises:
            InputError: what `update` raises, or an empty batch.
        """
        self._check(logits, label)
        if not len(label):
            raise InputError("the batch holds no image to score: call update() for batches that may be empty")
        return super().forward(_without_ties(logits), label.long())

    def _check(self, logits: Tensor, label: Tensor) -> None:
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or logits.shape[:1] != label.shape:
            raise InputError(
                f"logits {tuple(logits.shape)} and label {tuple(label.shape)} must be (B, {self.num_classes}) and "
                "(B,): give one score per class name and one label per image"
            )
        never = torch.isneginf(logits)  # a class that is never chosen, such as one without a known word
        if not (torch.isfinite(logits) | never).all() or (len(label) and never.all(dim=1).any()):
            raise InputError("logits hold NaN or infinite values: the model has diverged, check its loss and weights")
        if label.is_floating_point():
            raise InputError(f"label of {label.dtype} must hold class numbers: give integers, not probabilities")
        wrong = label[(label < 0) | (label >= self.num_classes)]
        if len(wrong):
            raise InputError(
                f"label {wrong[0].item()} is outside [0, {self.num_classes}): labels count the class names from 0, "
                "omit images that have none"
            )


class _WithinFirst(MulticlassAccuracy):
    """Share of images whose class is among the first k; torchmetrics' `top_k` is 20 times slower at C = 1000."""

    def __init__(self, k: int, **options: Any) -> None:
        super().__init__(**options)
        self.k = k

    def update(self, preds: Tensor, target: Tensor) -> None:
        first = preds.topk(self.k, dim=1).indices
        found = (first == target.unsqueeze(1)).any(dim=1)
        super().update(torch.where(found, target, first[:, 0]), target)


class _MeanPerClass(MulticlassAccuracy):
    """Mean accuracy of the classes that occur; torchmetrics' "macro" takes in, as 0, those that are only predicted."""

    def compute(self) -> Tensor:
        correct, missed = torch.as_tensor(self.tp), torch.as_tensor(self.fn)
        occurs = correct + missed > 0
        if not occurs.any():
            raise InputError("no images were evaluated: call update() with at least one labelled image before compute()")
        return (correct[occurs] / (correct + missed)[occurs]).mean()


def _without_ties(logits: Tensor) -> Tensor:
    """Scores in the same order, all different: torch.topk would leave the order of equal ones to the device."""
    order = logits.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(logits.shape[1], device=logits.device).expand_as(order)
    return -torch.empty_like(order).scatter_(1, order, place).float()
