"""Further senses bound to images (ImageBind, Girdhar et al. 2023, arXiv 2305.05665): depth maps beside texts."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from lightning_clip.encoders import Tower, towers

__all__ = ["DepthMap"]


@towers.register("depth_map")
class DepthMap(Tower):
    """A depth map through convolutions and the mean over places.

    Each sense is paired with images alone, and what images bind comes together: train it with `towers: {depth: depth_map}` and
    `objective: [{name: pairs}, {name: pairs, between: [image, depth]}]`; texts then find depth maps that they were never
    paired with.

    Args:
        width: of the features.
        depth: number of convolutions, each of which halves the sides.

    Examples:
        >>> import torch
        >>> DepthMap(width=16)(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 16])
    """

    column = "depth"

    def __init__(self, width: int = 256, depth: int = 3) -> None:
        super().__init__(output_dim=width)
        self.width, self.depth = width, depth
        widths = [1, *[width] * depth]
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(widths))

    def forward(self, depth: Tensor) -> Tensor:
        """Metres (B, 1, H, W) or (B, H, W) -> (B, width)."""
        hidden = depth if depth.ndim == 4 else depth.unsqueeze(1)
        for layer in self.layers:
            hidden = nn.functional.gelu(layer(hidden))  # (B, C, H, W) -> (B, width, H/2, W/2)
        return hidden.mean(dim=(2, 3))  # -> (B, width)
