"""GeoCLIP (Vivanco Cepeda et al. 2023, arXiv 2309.16020): places on Earth in the place of texts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import Tower, towers

__all__ = ["Coordinates"]


@towers.register("coordinates")
class Coordinates(Tower):
    """Latitude and longitude through random Fourier features of several scales, one small network each, added up.

    Train it with `towers: {gps: coordinates}` and `objective: {name: pairs, between: [image, gps]}`. Angles become points on
    the unit sphere first, so that 180 degrees east and west are one place; the paper projects onto a map (Equal Earth).

    Args:
        width: of the features.
        scales: standard deviations of the frequencies, 2^0, 2^4 and 2^8 in the paper.

    Examples:
        >>> Coordinates(width=32)(torch.tensor([[48.9, 2.4], [-33.9, 151.2]])).shape
        torch.Size([2, 32])
    """

    column = "gps"

    def __init__(self, width: int = 512, scales: tuple[float, ...] = (1.0, 16.0, 256.0)) -> None:
        if width % 2 or not scales:
            raise InputError(f"coordinates: width {width} must be even and scales {list(scales)} not empty")
        super().__init__(output_dim=width)
        self.width, self.scales = width, tuple(scales)
        drawn = torch.randn(len(self.scales), 3, width // 2) * torch.tensor(self.scales).view(-1, 1, 1)
        self.register_buffer("frequencies", drawn)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in self.scales
        )

    def example(self, size: int) -> Tensor:
        """Degrees (B, 2)."""
        return torch.zeros(size, 2)

    def forward(self, gps: Tensor) -> Tensor:
        """Degrees (B, 2), latitude first -> (B, width)."""
        latitude, longitude = (gps.to(self.frequencies.dtype) * (math.pi / 180)).unbind(dim=1)
        across = latitude.cos()
        point = torch.stack([across * longitude.cos(), across * longitude.sin(), latitude.sin()], dim=1)  # (B, 2) -> (B, 3)
        phase = point @ self.frequencies  # (B, 3) @ (S, 3, W/2) -> (S, B, W/2)
        waves = torch.cat([phase.sin(), phase.cos()], dim=2)  # -> (S, B, W)
        return torch.stack([layer(wave) for layer, wave in zip(self.layers, waves, strict=True)]).sum(dim=0)  # -> (B, W)

    frequencies: Tensor
