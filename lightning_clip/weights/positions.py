"""Position embeddings of another length: those of a source arrive, those for the size asked for leave."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.core.errors import InputError

__all__ = ["resized_grid", "resized_row"]


def resized_grid(positions: Tensor, image_size: int, patch_size: int, class_tokens: int) -> Tensor:
    """Positions of a square grid of patches (L, D) for another image size, bicubic and antialiased as in open_clip.

    Args:
        positions: (class_tokens + grid * grid, D); a leading dimension of length 1 stays.
        image_size: side asked for, in pixels.
        patch_size: side of a patch.
        class_tokens: rows in front that belong to no patch.

    Raises:
        InputError: an image size that is no multiple of the patch size.

    Examples:
        >>> import torch
        >>> resized_grid(torch.randn(1, 50, 8), 288, 32, class_tokens=1).shape
        torch.Size([1, 82, 8])
    """
    if image_size % patch_size:
        lower = max(1, image_size // patch_size) * patch_size
        raise InputError(
            f"image_size {image_size} is not a multiple of the tower's patch size {patch_size}: "
            f"use {lower} or {lower + patch_size}"
        )
    rows = positions.reshape(-1, positions.shape[-1])
    old, new = math.isqrt(len(rows) - class_tokens), image_size // patch_size
    if old == new:
        return positions
    grid = rows[class_tokens:].reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = interpolate(grid, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    resized = resized.permute(0, 2, 3, 1).reshape(new * new, -1)
    whole = resized if not class_tokens else torch.cat([rows[:class_tokens], resized])
    return whole.reshape(*positions.shape[:-2], *whole.shape)


def resized_row(positions: Tensor, length: int) -> Tensor:
    """Positions of a text (L, D) for another number of tokens.

    Fewer are the first of them, so that the features of captions that fit stay what they were; more are interpolated as
    in open_clip, a start for training on longer captions.
    """
    if length <= len(positions):
        return positions[:length].clone()
    return interpolate(positions.T[None], size=length, mode="linear", align_corners=False)[0].T.contiguous()
