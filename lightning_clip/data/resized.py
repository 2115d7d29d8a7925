"""Boxes of many pictures resized together on a device: a few batched products where each by itself would be six launches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from lightning_clip.core.precision import full_precision

__all__ = ["Box", "resized"]

# Top, left, height and width, in pixels.
Box = tuple[int, int, int, int]
# Bytes of float32 pixels, padding included, that are resized at once.
_AT_ONCE = 256 << 20


def resized(pictures: Sequence[Tensor], boxes: Sequence[Box], size: int, mode: str, at_once: int = _AT_ONCE) -> Tensor:
    """What torchvision's antialiased resize makes of a box of each picture, but for pixels that lie between two values.

    Pictures of one shape are laid together by one launch; which pixels of a picture count is in the products' weights.

    Args:
        pictures: uint8 (3, H, W) each, of one device and any sizes >= 1.
        boxes: of each picture, inside it.
        size: side S of the result.
        mode: "bicubic" or "bilinear".
        at_once: bytes of padded float32 pixels in memory; a larger picture goes by itself.

    Returns:
        uint8 (B, 3, S, S).

    Examples:
        >>> pictures = [torch.full((3, 7, 9), 40, dtype=torch.uint8), torch.full((3, 2, 2), 50, dtype=torch.uint8)]
        >>> resized(pictures, [(1, 2, 5, 6), (0, 0, 2, 2)], 4, "bicubic")[:, 0, 0, 0]
        tensor([40, 50], dtype=torch.uint8)
    """
    result = torch.empty(len(pictures), 3, size, size, dtype=torch.uint8, device=pictures[0].device)
    for places in _groups([(picture.shape[1], picture.shape[2]) for picture in pictures], at_once):
        together = _padded([pictures[place] for place in places])
        found = _products(together, [boxes[place] for place in places], size, _FILTERS[mode])
        result[torch.tensor(places, device=result.device)] = found
    return result


def _groups(shapes: list[tuple[int, int]], at_once: int) -> Iterator[list[int]]:
    """Places of pictures of about one size, as many as fit when all are padded to the largest height and width among them."""
    places: list[int] = []
    height = width = 0
    for place in sorted(range(len(shapes)), key=lambda place: (shapes[place][0] * shapes[place][1], shapes[place])):
        grown = max(height, shapes[place][0]), max(width, shapes[place][1])
        if places and (len(places) + 1) * 12 * grown[0] * grown[1] > at_once:
            yield places
            places, grown = [], shapes[place]
        places.append(place)
        height, width = grown
    yield places


def _padded(pictures: list[Tensor]) -> Tensor:
    """uint8 (3, h, w) each -> (B, 3, H, W)."""
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (1, 2))
    if all(picture.shape[1:] == (height, width) for picture in pictures):
        return torch.stack(pictures)
    together = pictures[0].new_zeros(len(pictures), 3, height, width)
    for place, picture in zip(together, pictures, strict=True):
        place[:, : picture.shape[1], : picture.shape[2]] = picture
    return together


def _products(pictures: Tensor, boxes: list[Box], size: int, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """uint8 (B, 3, H, W) -> (B, 3, S, S)."""
    tops, lefts, heights, widths = torch.tensor(boxes, dtype=torch.float32).to(pictures.device).unbind(1)
    down = _weights(tops, heights, pictures.shape[2], size, weigh)  # (B, S, H)
    across = _weights(lefts, widths, pictures.shape[3], size, weigh)  # (B, S, W)
    with torch.autocast(pictures.device.type, enabled=False), full_precision():
        narrow = pictures.float() @ across[:, None].mT  # (B, 3, H, W) @ (B, 1, W, S) -> (B, 3, H, S)
        found: Tensor = down[:, None] @ narrow  # (B, 1, S, H) @ (B, 3, H, S) -> (B, 3, S, S)
    return found.round().clamp(0, 255).to(torch.uint8)


def _weights(begin: Tensor, length: Tensor, pixels: int, size: int, weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """What each pixel of a side gives to each of the result: (B,) and (B,) -> (B, S, pixels), rows that sum to 1."""
    length = length[:, None, None]  # (B, 1, 1)
    step = length / size
    centre = step * (torch.arange(size, device=begin.device, dtype=torch.float32)[:, None] + 0.5)  # (B, S, 1)
    pixel = torch.arange(pixels, device=begin.device, dtype=torch.float32) - begin[:, None, None]  # (B, 1, pixels)
    found = weigh((pixel + 0.5 - centre).abs() / step.clamp(min=1)) * ((pixel >= 0) & (pixel < length))
    return found / found.sum(dim=-1, keepdim=True)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


_FILTERS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _cubic, "bilinear": _linear}
