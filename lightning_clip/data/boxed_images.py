"""Image transforms with boxes: the step that crops, turns or resizes a picture does the same to its boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_clip.core.errors import InputError
from lightning_clip.data.boxes import Boxes
from lightning_clip.data.image_steps import Cropped, FloorCrop, Middle, PadAtEnd, PadToSquare, RandomCrop, Steps

__all__ = ["Placement", "placed", "placed_boxes", "transform_with_boxes", "whole_picture"]

_SEEN = 0.25  # of a box's area that must be left of it


class Placement(NamedTuple):
    """Where the pixels of a picture come to lie: x' = scale x + shift on each axis.

    Attributes:
        scale: of x and y; negative where the picture is mirrored.
        shift: of x and y in pixels of the result.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)

    def then(self, scale: tuple[float, float], shift: tuple[float, float]) -> Placement:
        """This one and then another."""
        return Placement(
            (scale[0] * self.scale[0], scale[1] * self.scale[1]),
            (scale[0] * self.shift[0] + shift[0], scale[1] * self.shift[1] + shift[1]),
        )

    def inverse(self) -> Placement:
        """From the result back to the picture."""
        across, down = (1 / part for part in self.scale)
        return Placement((across, down), (-self.shift[0] * across, -self.shift[1] * down))

    def corners(self, corners: Tensor) -> Tensor:
        """Boxes (N, 4) in pixels of the picture -> in pixels of the result, which may reach out of it."""
        scale, shift = (corners.new_tensor([*part, *part]) for part in (self.scale, self.shift))
        moved = corners * scale + shift
        first, second = moved[:, :2], moved[:, 2:]
        return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)  # mirrored ones change sides


def transform_with_boxes(transform: nn.Module, image: Tensor, boxes: Boxes) -> tuple[Tensor, Boxes]:
    """A picture at the model's size, and its boxes as shares of that.

    Draws the numbers that `transform` would. Boxes of which less than a quarter is left are dropped.

    Args:
        transform: of training or evaluation.
        image: uint8 (3, H, W).
        boxes: of the picture.

    Raises:
        InputError: several views, or a step of which it is not known where it puts what.
    """
    pixels, placement = placed(transform, image)
    return pixels, placed_boxes(boxes, placement, (image.shape[-2], image.shape[-1]), (pixels.shape[-2], pixels.shape[-1]))


def placed_boxes(boxes: Boxes, placement: Placement, before: tuple[int, int], after: tuple[int, int]) -> Boxes:
    """Boxes of a picture as shares of what was made of it, cut to it.

    Args:
        boxes: as shares of the picture.
        placement: of its pixels.
        before: height and width of the picture.
        after: height and width of the result.
    """
    sides, own = (boxes.corners.new_tensor([width, height] * 2) for height, width in (before, after))
    moved = placement.corners(boxes.corners * sides) / own  # (N, 4)
    cut = moved.clamp(0, 1)
    share = _areas(cut) / _areas(moved).clamp(min=1e-12)
    return Boxes(cut, boxes.labels, boxes.crowd).at(share >= _SEEN)


def placed(transform: nn.Module, image: Tensor) -> tuple[Tensor, Placement]:
    """What a transform makes of a picture, and where its pixels come to lie.

    Args:
        transform: of training or evaluation.
        image: uint8 (3, H, W).

    Raises:
        InputError: as `transform_with_boxes`.
    """
    if isinstance(transform, nn.Identity):
        return image, Placement()
    if not isinstance(transform, Steps):
        raise InputError(
            f"image transform {type(transform).__name__} does not say where it puts a box: for boxes use the transform's "
            "settings, with views 1"
        )
    placement = Placement()
    for step in transform:
        image, placement = _step(step, image, placement)
    return image, placement


def whole_picture(transform: nn.Module, size: int) -> nn.Module:
    """A transform of evaluation that shows all of a picture: where it would cut, sides are brought to `size` instead.

    Args:
        transform: of evaluation.
        size: side of the result in pixels.
    """
    cuts = isinstance(transform, Steps) and any(isinstance(step, FloorCrop | v2.CenterCrop) for step in transform)
    if not cuts or not isinstance(transform, Steps):
        return transform
    mode = next(step.interpolation for step in transform if isinstance(step, v2.Resize))
    return Steps([v2.Resize((size, size), interpolation=mode, antialias=True)], transform.reading)


def _step(step: nn.Module, image: Tensor, before: Placement) -> tuple[Tensor, Placement]:
    height, width = image.shape[-2:]
    if isinstance(step, RandomCrop):
        top, left, down, across = step.drawn(height, width)
        shown = step(Cropped(image[..., top : top + down, left : left + across]))
        return shown, before.then((1, 1), (-left, -top)).then((step.size / across, step.size / down), (0, 0))
    if isinstance(step, v2.RandomHorizontalFlip):
        mirrored = bool(torch.rand(1) < step.p)  # as torchvision draws it
        return (image.flip(-1), before.then((-1, 1), (width, 0))) if mirrored else (image, before)
    if isinstance(step, v2.RandomApply) and all(isinstance(part, v2.ColorJitter) for part in step.transforms):
        return step(image), before
    if isinstance(step, v2.Resize | Middle | FloorCrop | v2.CenterCrop | PadToSquare):
        made = step(image)
        scale, shift = _deterministic(step, (height, width), (made.shape[-2], made.shape[-1]))
        return made, before.then(scale, shift)
    name = getattr(step, "transforms", [step])[0]
    raise InputError(
        f"transform step {type(name).__name__} moves things where boxes cannot follow: omit rand_augment, or learn no boxes"
    )


def _deterministic(
    step: nn.Module, before: tuple[int, int], after: tuple[int, int]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Scale and shift of a step that draws nothing, from heights and widths before and after it."""
    (height, width), (high, wide) = before, after
    if isinstance(step, v2.Resize):
        return (wide / width, high / height), (0.0, 0.0)
    if isinstance(step, PadAtEnd):
        return (wide / max(height, width), high / max(height, width)), (0.0, 0.0)
    if isinstance(step, PadToSquare):
        down, across = step.shape(height, width)
        top, left = step.corner(down, across)
        return (across / width, down / height), (left, top)
    if isinstance(step, v2.CenterCrop):
        return (1.0, 1.0), (-float(round((width - wide) / 2.0)), -float(round((height - high) / 2.0)))
    return (1.0, 1.0), (-float((width - wide) // 2), -float((height - high) // 2))  # `Middle` and `FloorCrop`


def _areas(corners: Tensor) -> Tensor:
    return (corners[:, 2:] - corners[:, :2]).clamp(min=0).prod(dim=1)  # (N, 4) -> (N,)
