"""Patches of pictures of any shape as one uint8 tensor: pixels, places and padding in rows that are sliced like any batch.

A row of the tensor is a patch: its P = p * p * 3 pixels (rows, columns, colours), then five bytes: 1 where there is a patch
and 0 on padding, and its row and column in the picture, two bytes each. So a batch of pictures of several shapes is a plain
tensor, which loaders, ranks, micro-batches and devices treat as they treat pixels. It is (B, 1, 1, L, P + 5): five dimensions,
so that nobody takes it for pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = [
    "EXTRA",
    "cut",
    "fitted_size",
    "is_packed",
    "pack",
    "patch_side",
    "picture_of",
    "stack_images",
    "unpack",
]

EXTRA = 5  # bytes beside the pixels of a patch


def fitted_size(height: int, width: int, patch: int, most: int) -> tuple[int, int]:
    """Height and width in pixels, multiples of the patch, with at most so many patches and the shape of the picture.

    The search of SigLIP 2's NaFlex (Tschannen et al. 2025, arXiv 2502.14786) as transformers and timm have it.

    Args:
        height: of the picture in pixels.
        width: likewise.
        patch: side of a patch in pixels.
        most: patches.

    Examples:
        >>> fitted_size(480, 640, 16, 256), fitted_size(100, 1000, 16, 256)
        ((224, 288), (80, 800))
    """
    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        rows, columns = (_patches(side * middle, patch) for side in (height, width))
        low, high = (middle, high) if rows * columns <= most else (low, middle)
    return _patches(height * low, patch) * patch, _patches(width * low, patch) * patch


def _patches(side: float, patch: int) -> int:
    return max(1, math.ceil(side / patch))


def pack(image: Tensor, patch: int) -> Tensor:
    """Pixels uint8 (..., 3, H, W), H and W multiples of the patch -> (..., L, P + 5).

    Examples:
        >>> packed = pack(torch.zeros(3, 32, 48, dtype=torch.uint8), 16)
        >>> packed.shape, packed[-1, -EXTRA:].tolist()
        (torch.Size([6, 773]), [1, 0, 1, 0, 2])
    """
    pixels = cut(image, patch)
    row, column = _places(image.shape[-2] // patch, image.shape[-1] // patch, image.device).unbind(dim=1)  # (L,) each
    there = torch.ones_like(row)
    extra = torch.stack([there, row // 256, row % 256, column // 256, column % 256], dim=1).to(torch.uint8)  # (L, 5)
    return torch.cat([pixels, extra.expand(*pixels.shape[:-2], -1, -1)], dim=-1)


def cut(image: Tensor, patch: int) -> Tensor:
    """Pixels (..., 3, H, W), H and W multiples of the patch -> its patches (..., L, P), row by row."""
    *batch, colours, height, width = image.shape
    rows, columns = height // patch, width // patch
    parts = image.reshape(*batch, colours, rows, patch, columns, patch)  # (..., 3, H, W) -> (..., 3, h, p, w, p)
    parts = parts.movedim(-5, -1).transpose(-4, -3)  # -> (..., h, w, p, p, 3)
    return parts.reshape(*batch, rows * columns, colours * patch * patch)  # -> (..., L, P)


def _places(rows: int, columns: int, device: torch.device | None = None) -> Tensor:
    """Row and column of each patch, int64 (rows * columns, 2)."""
    return torch.cartesian_prod(torch.arange(rows, device=device), torch.arange(columns, device=device))


def is_packed(image: Tensor) -> bool:
    """Whether a batch holds packed patches (B, 1, 1, L, P + 5) and not pixels (B, 3, H, W)."""
    if image.ndim != 5 or image.dtype != torch.uint8 or image.shape[1:3] != (1, 1):
        return False
    return image.shape[-1] == 3 * patch_side(image) ** 2 + EXTRA


def unpack(packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What `pack` and `stack_images` put together.

    Args:
        packed: uint8 (B, 1, 1, L, P + 5).

    Returns:
        Patches uint8 (B, L, P), places int64 (B, L, 2) as (row, column), and bool (B, L), True where there is a patch.
    """
    rows = packed[:, 0, 0]  # (B, 1, 1, L, P + 5) -> (B, L, P + 5)
    patches, extra = rows[..., :-EXTRA], rows[..., -EXTRA:].long()
    places = 256 * extra[..., [1, 3]] + extra[..., [2, 4]]  # (B, L, 2)
    return patches, places, extra[..., 0] > 0


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Pictures of a batch as one tensor: pixels (3, S, S) stacked, packed patches (L_i, P + 5) padded to the longest.

    Examples:
        >>> small, large = (pack(torch.zeros(3, side, 16, dtype=torch.uint8), 16) for side in (16, 48))
        >>> stack_images([small, large]).shape
        torch.Size([2, 1, 1, 3, 773])
    """
    if images[0].ndim == 2:
        return pad_sequence(list(images), batch_first=True)[:, None, None]  # B x (L_i, P + 5) -> (B, 1, 1, L, P + 5)
    return torch.stack(list(images))  # B x (3, S, S) -> (B, 3, S, S)


def patch_side(packed: Tensor) -> int:
    """Side of a patch in pixels, of packed patches (..., L, P + 5)."""
    return math.isqrt(max(0, packed.shape[-1] - EXTRA) // 3)


def picture_of(packed: Tensor) -> Tensor:
    """One picture's packed patches uint8 (..., L, P + 5), padding among them -> its pixels (3, H, W)."""
    patches, places, there = (part[0] for part in unpack(packed.reshape(1, 1, 1, *packed.shape[-2:])))
    rows, columns = (int(side) + 1 for side in places[there].amax(dim=0))
    side = patch_side(packed)
    cut = patches[there].reshape(rows, columns, side, side, 3)  # (L, P) -> (h, w, p, p, 3)
    return cut.permute(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side)  # -> (3, H, W)
