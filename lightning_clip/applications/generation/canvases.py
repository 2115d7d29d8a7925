"""Canvases: pictures as numbers that are learned, such that what is learned looks like a picture and not like noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from lightning_clip.core.registry import Registry
from lightning_clip.core.settings import in_range

__all__ = ["Canvas", "Fourier", "Generated", "Resolutions", "canvases"]


class Canvas(nn.Module, ABC):
    """A picture that is a function of parameters.

    Attributes:
        rate: of learning, at which its parameters move well under Adam.
    """

    rate: float = 0.01

    @abstractmethod
    def forward(self) -> Tensor:
        """The picture (1, 3, H, W), in [0, 1]."""


canvases: Registry[Canvas] = Registry("canvas")


@canvases.register("resolutions")
class Resolutions(Canvas):
    r"""A sum of images of many resolutions, from one pixel to all (Fort & Whitaker 2025, Direct Ascent Synthesis, section 3).

    .. math:: I = \tfrac12 + \tfrac12 \tanh(b + \sum_r \operatorname{resize}_S(P_r))

    A change that helps at one place only moves the finest images; what helps over a whole region moves coarse ones, too, and so
    comes sooner.

    Args:
        side: S of the picture in pixels, at least 1.
        layers: how many images at most, at least 1, their sides evenly from 1 to S.
        start: the grey to begin from, in (0, 1): near that of the model's pictures if those have much of one.

    Examples:
        >>> canvas = Resolutions(32, layers=4)
        >>> [layer.shape[-1] for layer in canvas.layers], canvas().shape
        ([1, 11, 22, 32], torch.Size([1, 3, 32, 32]))
    """

    def __init__(self, side: int, layers: int = 24, start: float = 0.5) -> None:
        super().__init__()
        in_range("canvas side", side, 1, whole=True)
        in_range("canvas layers", layers, 1, whole=True)
        in_range("canvas start", start, 0, 1, open_low=True, open_high=True)
        self.side, self.begin = side, math.atanh(2 * start - 1)
        sides = sorted({round(float(value)) for value in torch.linspace(1, side, layers)}) if layers > 1 else [side]
        self.layers = nn.ParameterList([torch.zeros(1, 3, one, one) for one in sides])

    def forward(self) -> Tensor:
        """(1, 3, S, S)."""
        size = (self.side, self.side)
        total = sum(interpolate(layer, size, mode="bicubic", align_corners=False) for layer in self.layers)
        return 0.5 + 0.5 * torch.tanh(self.begin + total)  # type: ignore[arg-type]


@canvases.register("fourier")
class Fourier(Canvas):
    """Coefficients of waves, the slow ones first (Olah, Mordvintsev & Schubert 2017, Feature Visualization, appendix).

    A wave of f cycles a picture is multiplied by 1 / max(f, 1)^decay; a decay of 1 is about what natural pictures have.

    Args:
        side: S of the picture in pixels, at least 1.
        decay: at least 0, the larger the smoother.
        start: as for `Resolutions`.
    """

    scales: Tensor

    def __init__(self, side: int, decay: float = 1.0, start: float = 0.5) -> None:
        super().__init__()
        in_range("canvas side", side, 1, whole=True)
        in_range("canvas decay", decay, 0)
        in_range("canvas start", start, 0, 1, open_low=True, open_high=True)
        self.side, self.begin = side, math.atanh(2 * start - 1)
        down, across = torch.fft.fftfreq(side, 1 / side), torch.fft.rfftfreq(side, 1 / side)
        cycles = (down[:, None] ** 2 + across**2).sqrt()  # (S, S // 2 + 1)
        self.register_buffer("scales", cycles.clamp(min=1) ** -decay)
        self.waves = nn.Parameter(torch.zeros(1, 3, side, side // 2 + 1, 2))

    def forward(self) -> Tensor:
        """(1, 3, S, S)."""
        waves = torch.view_as_complex(self.waves) * self.scales
        pixels: Tensor = torch.fft.irfft2(waves, s=(self.side, self.side), norm="forward")
        return (2 * (self.begin + pixels)).sigmoid()


class Generated(Canvas):
    """What a generator makes of a code that is learned: a GAN, an autoencoder's decoder, a renderer that has gradients.

    Args:
        generator: code (1, ...) -> picture (1, 3, H, W) in [0, 1].
        code: where to begin.
        rate: of learning.

    Examples:
        >>> canvas = Generated(lambda code: code.sigmoid().view(1, 3, 1, 1).expand(-1, -1, 8, 8), torch.zeros(1, 3))
        >>> canvas().mean().item()
        0.5
    """

    def __init__(self, generator: Callable[[Tensor], Tensor], code: Tensor, rate: float = 0.05) -> None:
        super().__init__()
        in_range("rate", rate, 0, math.inf, open_low=True)
        self.generator, self.rate = generator, rate
        self.code = nn.Parameter(code.detach().clone())

    def forward(self) -> Tensor:
        """(1, 3, H, W)."""
        return self.generator(self.code)
