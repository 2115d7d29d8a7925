"""A few labelled images of each class, drawn from a labelled source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources import PairSource, Subset, pair_sources

__all__ = ["FewShotSource", "draw_shots"]


def draw_shots(label: Tensor, shots: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of k images of each class, and of min(k, 4) others of each for choosing settings (as many as there are).

    Args:
        label: int64 (N,).
        shots: k.
        num_classes: C.
        seed: of the draw; the images of a smaller k are among those of a larger one.

    Raises:
        InputError: a class with fewer than k images.

    Examples:
        >>> rows, held_out = draw_shots(torch.tensor([0, 1, 0, 1, 0]), shots=2, num_classes=2, seed=0)
        >>> len(rows), len(held_out)  # of class 1 no image is left
        (4, 1)
    """
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
    train, held = [], []
    for number in range(num_classes):
        rows = order[label[order] == number]
        if len(rows) < shots:
            raise InputError(f"class {number} has {len(rows)} training images, fewer than {shots} shots: take smaller shots")
        train.append(rows[:shots])
        held.append(rows[max(shots, len(rows) - min(shots, 4)) :])  # from the other end: the same for every k
    return torch.cat(train), torch.cat(held)


@pair_sources.register("shots")
class FewShotSource(Subset):
    """k images of each class of a labelled source: the same draw as the few-shot protocol of `lightning-clip evaluate`.

    The images of a smaller k are among those of a larger one.

    Args:
        source: what any source may be, with labels.
        shots: k, at least 1; None takes all images.
        seed: of the draw.
        held_out: True gives min(k, 4) other images of each class instead, to choose settings on (of all images a fifth).

    Raises:
        InputError: a source without labels, or a class with fewer than k images.

    Examples:
        >>> few = FewShotSource({"name": "synthetic", "size": 200, "held_out": True}, shots=2)
        >>> len(few) == 2 * len(few.class_names)
        True
    """

    def __init__(self, source: Any, shots: int | None = 16, seed: int = 0, *, held_out: bool = False) -> None:
        if shots is not None and shots < 1:
            raise InputError(f"shots {shots} must be at least 1 image of each class, or None for all")
        opened = pair_sources.build(source)
        labels = _labels(opened)
        self.shots, self.seed, self.held_out = shots, seed, held_out
        self.class_names = list(opened.class_names)
        classes = len(self.class_names) or int(labels.max()) + 1
        train, held = _all(labels, seed) if shots is None else self._drawn(labels, classes)
        rows = held if held_out else train
        if not len(rows):
            raise InputError(f"no image is left beside the {shots} shots of each class: take fewer, or another source")
        super().__init__(opened, rows.numpy())

    def _drawn(self, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        assert self.shots is not None
        counts = torch.bincount(labels, minlength=classes)
        least = int(counts.argmin())
        if counts[least] < self.shots:
            name = f" ({self.class_names[least]})" if self.class_names else ""
            raise InputError(
                f"class {least}{name} has {int(counts[least])} images, fewer than {self.shots} shots: take smaller shots, "
                "or omit the class from the source"
            )
        return draw_shots(labels, self.shots, classes, self.seed)


def _all(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """A fifth is held out, at random, the same whatever the classes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return order[: -(len(labels) // 5) or None], order[len(labels) - len(labels) // 5 :]


def _labels(source: PairSource) -> Tensor:
    """Of each sample; images are not read where the source knows better."""
    if not source.random_access:
        raise InputError("shots cannot be drawn from a stream, which has no samples by number: put it into shards on a disk")
    found = [source.label(index) for index in range(len(source))]
    missing = sum(label is None for label in found)
    if missing or not found:
        raise InputError(
            f"shots needs labels, but {missing} of {len(found)} samples have none: give a table's label_column, one folder "
            "per class, or shards with .cls members"
        )
    return torch.tensor(found, dtype=torch.int64)
