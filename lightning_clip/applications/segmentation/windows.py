"""Windows over a picture that is larger than what a model takes."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torchvision.transforms.v2.functional import InterpolationMode, resize

from lightning_clip.core.settings import in_range

__all__ = ["fitted", "window_starts", "windows"]


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along one side: every `stride`, the last flush with the end.

    Args:
        length: of the side in pixels, at least `size`.
        size: of a window.
        stride: from 1 to `size`, so that no pixel is left out.

    Raises:
        InputError: a stride or a length out of range.

    Examples:
        >>> window_starts(10, 4, 3), window_starts(4, 4, 2), window_starts(9, 4, 4)
        ([0, 3, 6], [0], [0, 4, 5])
    """
    in_range("stride", stride, 1, size, whole=True)
    in_range("length", length, size, whole=True)
    return [*range(0, length - size, stride), length - size]


def windows(height: int, width: int, size: int, stride: int) -> Iterator[tuple[int, int]]:
    """Top and left edge of each window over a picture; arguments as for `window_starts`."""
    for top in window_starts(height, size, stride):
        for left in window_starts(width, size, stride):
            yield top, left


def fitted(image: Tensor, side: int) -> Tensor:
    """A picture whose shorter side is `side`, its shape kept: uint8 (3, H, W) -> uint8 (3, H', W')."""
    height, width = image.shape[-2:]
    factor = side / min(height, width)
    sides = [max(side, round(height * factor)), max(side, round(width * factor))]
    if sides == [height, width]:
        return image
    sized: Tensor = resize(image, sides, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return sized
