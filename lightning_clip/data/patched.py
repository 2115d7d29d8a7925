"""Steps of image transforms that keep a picture's shape and end in packed patches (NaFlex)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.core.patches import fitted_size, pack

__all__ = ["KeepShapeCrop", "ToPatches"]


class KeepShapeCrop(nn.Module):
    """A random crop of the picture's own shape: uint8 (3, H, W) -> (3, h, w), drawing from torch's generator.

    Args:
        scale: share of the area that it covers, drawn from this range.
    """

    def __init__(self, scale: tuple[float, float]) -> None:
        super().__init__()
        self.scale = scale

    def extra_repr(self) -> str:
        """Its range."""
        return f"scale={tuple(self.scale)}"

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> (3, h, w)."""
        factor = math.sqrt(torch.empty(1).uniform_(*self.scale).item())
        (height, width), whole = (max(1, round(side * factor)) for side in image.shape[-2:]), image.shape[-2:]
        top, left = (int(torch.randint(0, room + 1, (1,))) for room in (whole[0] - height, whole[1] - width))
        return image[..., top : top + height, left : left + width]


class ToPatches(nn.Module):
    """Resizes a picture to at most so many patches, its shape kept: uint8 (3, H, W) -> packed uint8 (L, P + 5).

    Args:
        patch_size: side of a patch in pixels.
        max_patches: the most patches of a picture.
        mode: of the resize.
    """

    def __init__(self, patch_size: int, max_patches: int, mode: InterpolationMode) -> None:
        super().__init__()
        self.patch_size, self.max_patches, self.mode = patch_size, max_patches, mode

    def extra_repr(self) -> str:
        """Its sizes."""
        return f"patch_size={self.patch_size}, max_patches={self.max_patches}, interpolation={self.mode.value}"

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (3, H, W) -> (L, P + 5), see `lightning_clip.core.patches`."""
        height, width = image.shape[-2:]
        size = fitted_size(height, width, self.patch_size, self.max_patches)
        resized = pixels.resize(image, list(size), interpolation=self.mode, antialias=True)
        return pack(resized, self.patch_size)
