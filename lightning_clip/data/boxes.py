"""`Boxes`: where the objects of a picture are and what they are; sources that know them, and batches of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.base import PairSource, Subset

__all__ = ["BOXES", "BoxedSource", "Boxes", "boxed", "checked_boxes", "collate_boxes"]

BOXES = "boxes"  # the column
_SLACK = 1e-4  # of the picture's side that rounding may put a corner outside


@dataclass(frozen=True)
class Boxes:
    """The objects of one picture; there may be none.

    Attributes:
        corners: float32 (N, 4), left, top, right and bottom as shares of the picture in [0, 1].
        labels: int64 (N,), places in the source's `class_names`.
        crowd: bool (N,), boxes around many things that are not told apart: neither learned nor counted as missed.
    """

    corners: Tensor
    labels: Tensor
    crowd: Tensor

    @classmethod
    def of(cls, corners: Any, labels: Any, crowd: Any = None) -> Boxes:
        """From lists, arrays or tensors.

        Args:
            corners: (N, 4).
            labels: (N,).
            crowd: (N,); None for none.

        Raises:
            InputError: as `checked_boxes`.

        Examples:
            >>> Boxes.of([[0.1, 0.2, 0.5, 0.6]], [3]).corners.shape, Boxes.of([], []).corners.shape
            (torch.Size([1, 4]), torch.Size([0, 4]))
        """
        places = torch.as_tensor(corners, dtype=torch.float32).reshape(-1, 4)
        names = torch.as_tensor(labels, dtype=torch.int64).reshape(-1)
        many = (
            torch.zeros(len(names), dtype=torch.bool) if crowd is None else torch.as_tensor(crowd, dtype=torch.bool).reshape(-1)
        )
        return checked_boxes(cls(places, names, many))

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: Tensor) -> Boxes:
        """Some of them.

        Args:
            rows: places int64 (M,), or bool (N,).
        """
        return Boxes(self.corners[rows], self.labels[rows], self.crowd[rows])


def checked_boxes(boxes: Boxes, name: str = "a picture") -> Boxes:
    """Boxes with their corners inside of the picture, to the last bit.

    Args:
        boxes: of one picture.
        name: of the picture, for the error.

    Raises:
        InputError: numbers that do not fit together, a box that is empty, not finite, or reaches out of the picture.
    """
    corners, labels, crowd = boxes.corners, boxes.labels, boxes.crowd
    if not len(corners) == len(labels) == len(crowd):
        raise InputError(
            f"{name} has {len(corners)} boxes, {len(labels)} labels and {len(crowd)} crowd flags: give one for each"
        )
    if len(labels) and int(labels.min()) < 0:
        raise InputError(f"{name} has a box with label {int(labels.min())}: labels are places in class_names, from 0")
    outside = ~((corners >= -_SLACK) & (corners <= 1 + _SLACK)).all(dim=1)  # also what is no number
    empty = (corners[:, 2:] <= corners[:, :2]).any(dim=1)
    for wrong, reason in ((outside, "reaches out of the picture"), (empty, "is empty")):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            shown = ", ".join(f"{value:.4g}" for value in corners[row].tolist())
            raise InputError(
                f"box {row} of {name} {reason}: [{shown}]; give left, top, right and bottom as shares of its sides, from 0 to 1"
            )
    return replace(boxes, corners=corners.clamp(0, 1))


class BoxedSource(PairSource):
    """Pictures of which it is known where their objects are; `class_names` are what their labels stand for.

    A pair has its boxes as column "boxes" where training is to read them.
    """

    @abstractmethod
    def boxes(self, index: int) -> Boxes:
        """The objects of a picture."""

    def class_groups(self) -> Mapping[str, Sequence[str]]:
        """Name -> class names that are also measured by themselves, such as those that training never shows."""
        return {}


def boxed(source: PairSource) -> BoxedSource | None:
    """The source that knows the boxes of another, which may be a part of it; None where nobody does."""
    while isinstance(source, Subset):
        source = source.source
    return source if isinstance(source, BoxedSource) else None


def collate_boxes(values: list[Boxes]) -> dict[str, Tensor]:
    """Boxes of B pictures as tensors, those in a crowd left out.

    Args:
        values: of each picture.

    Returns:
        "boxes" float32 (B, N, 4) and "labels" int64 (B, N) with -1 where a picture has fewer than N.

    Raises:
        InputError: something else than `Boxes`.

    Examples:
        >>> collate_boxes([Boxes.of([[0, 0, 1, 1]], [2]), Boxes.of([], [])])["labels"].tolist()
        [[2], [-1]]
    """
    for value in values:
        if not isinstance(value, Boxes):
            raise InputError(f"boxes of type {type(value).__name__} are no boxes: give lightning_clip.data.boxes.Boxes.of(...)")
    kept = [value.at(~value.crowd) for value in values]
    most = max((len(value) for value in kept), default=0)
    corners, labels = torch.zeros(len(kept), most, 4), torch.full((len(kept), most), -1)
    for row, value in enumerate(kept):
        corners[row, : len(value)], labels[row, : len(value)] = value.corners, value.labels
    return {"boxes": corners, "labels": labels}
