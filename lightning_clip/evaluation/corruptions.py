"""Image corruptions in five strengths, named as "gaussian_noise:3".

The kinds and the idea of strengths 1 to 5 are Hendrycks and Dietterich's (2019, arXiv 1903.12261, ImageNet-C); widths in pixels
are scaled with the picture, so that 32 and 224 pixels suffer alike. Figures are not those of the published files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.core.errors import InputError, nearest

__all__ = ["CORRUPTIONS", "corrupted", "parse_corruption"]

Corruption = Callable[[Tensor, int, torch.Generator], Tensor]
_REFERENCE = 224  # pixels a side for which widths are given


def _noise(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    deviation = 255 * (0.08, 0.12, 0.18, 0.26, 0.38)[strength - 1]
    return _bytes(image + deviation * torch.randn(image.shape, generator=generator))


def _impulse(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[strength - 1]
    draw = torch.rand(image.shape, generator=generator)
    return _bytes(torch.where(draw < share / 2, 0.0, torch.where(draw > 1 - share / 2, 255.0, image.float())))


def _blur(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    sigma = (3.0, 4.0, 5.0, 6.0, 7.5)[strength - 1] * min(image.shape[1:]) / _REFERENCE
    size = 2 * max(1, round(3 * sigma)) + 1
    size = min(size, 2 * (min(image.shape[1:]) // 2) - 1)
    blurred: Tensor = pixels.gaussian_blur(image, [size, size], [max(sigma, 0.1), max(sigma, 0.1)])
    return blurred


def _pixelate(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    share, (height, width) = (0.6, 0.5, 0.4, 0.3, 0.25)[strength - 1], image.shape[1:]
    small = pixels.resize(image, [max(1, round(share * height)), max(1, round(share * width))], antialias=True)
    large: Tensor = pixels.resize(small, [height, width], interpolation=pixels.InterpolationMode.NEAREST)
    return large


def _jpeg(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    coded: Tensor = pixels.jpeg(image, (25, 18, 15, 10, 7)[strength - 1])
    return coded


def _contrast(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    mean = image.float().mean(dim=(1, 2), keepdim=True)
    return _bytes((image - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[strength - 1] + mean)


def _brightness(image: Tensor, strength: int, generator: torch.Generator) -> Tensor:
    return _bytes(image + 255 * (0.1, 0.2, 0.3, 0.4, 0.5)[strength - 1])


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _noise,
    "impulse_noise": _impulse,
    "gaussian_blur": _blur,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
    "contrast": _contrast,
    "brightness": _brightness,
}


def parse_corruption(spec: str) -> tuple[str, int]:
    """Name and strength of "gaussian_noise:3".

    Args:
        spec: NAME:STRENGTH, a name of `CORRUPTIONS` and a strength from 1 to 5.

    Raises:
        InputError: an unknown name, or a strength outside 1 to 5.

    Examples:
        >>> parse_corruption("jpeg:5")
        ('jpeg', 5)
    """
    name, _, strength = spec.partition(":")
    if name not in CORRUPTIONS:
        raise InputError(f"unknown corruption {name!r}: {nearest(name, CORRUPTIONS)}")
    if strength not in ("1", "2", "3", "4", "5"):
        raise InputError(f"corruption {spec!r} must name a strength from 1 to 5, such as {name}:3")
    return name, int(strength)


def corrupted(spec: str, image: Tensor, seed: int) -> Tensor:
    """The same pixels for the same spec and seed, on every machine.

    Args:
        spec: such as "gaussian_noise:3".
        image: uint8 (3, H, W).
        seed: of the noise.

    Returns:
        uint8 (3, H, W).
    """
    name, strength = parse_corruption(spec)
    return CORRUPTIONS[name](image, strength, torch.Generator().manual_seed(seed % (1 << 63)))


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
