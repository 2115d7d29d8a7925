"""`small_conv`: a convolutional tower for small pictures that learns from nothing within minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.encoders.base import ImageEncoder, image_encoders
from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.dense_maps import MapView

__all__ = ["SmallConvEncoder"]


@image_encoders.register("small_conv")
class SmallConvEncoder(ImageEncoder):
    """Plain 3 x 3 convolutions, each stage of which halves the sides, as the speed records of CIFAR-10 use them.

    Keller Jordan's airbench (2024, arXiv 2404.00498) without its whitening: wide maps early on, few layers, batch
    normalisation and GELU. For pictures of 32 to 96 pixels and thousands to some 100,000 of them, where a ResNet that halves
    the sides four times before its first wide layer learns more slowly; above that take a timm tower.

    Args:
        image_size: side of the square input in pixels; at least `stride` times 2 for each stage.
        widths: channels of each stage, one or more; the last is the width of the features.
        depth: convolutions of a stage, at least 1; from the third on they are residual.
        stem_width: channels of the first convolution.
        stride: of the first convolution, 1 or 2.
        channels: of the images, at least 1.

    Raises:
        InputError: a setting out of range, or pictures too small for so many stages.

    Examples:
        >>> import torch
        >>> encoder = SmallConvEncoder(image_size=32, widths=[16, 32], stride=1)
        >>> encoder(torch.zeros(2, 3, 32, 32)).shape, encoder.forward_tokens(torch.zeros(2, 3, 32, 32)).shape
        (torch.Size([2, 32]), torch.Size([2, 64, 32]))
    """

    def __init__(
        self,
        image_size: int = 64,
        widths: Sequence[int] = (64, 128, 256, 256),
        depth: int = 2,
        stem_width: int = 32,
        stride: int = 2,
        channels: int = 3,
    ) -> None:
        named = {"channels": channels, "depth": depth, "stem_width": stem_width, "stride": stride, "image_size": image_size}
        for name, value in {**named, **{f"widths[{place}]": width for place, width in enumerate(widths)}}.items():
            in_range(f"image encoder 'small_conv': {name}", value, 1, whole=True)
        least = stride * 2 ** len(widths)
        if not widths or image_size < least:
            raise InputError(
                f"image encoder 'small_conv': widths {list(widths)} with stride {stride} need at least one stage and "
                f"pictures of {least} px or more, not image_size {image_size}: give fewer widths"
            )
        super().__init__(output_dim=widths[-1], image_size=image_size)
        self.settings = {
            "widths": list(widths),
            "depth": depth,
            "stem_width": stem_width,
            "stride": stride,
            "channels": channels,
        }
        self.channels = channels
        self.stem = _convolved(channels, stem_width, stride=stride)
        self.stages = nn.Sequential(
            *(_Stage(before, width, depth) for before, width in zip([stem_width, *widths], widths, strict=False))
        )

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, output_dim)."""
        return _mean_of_places(self.map(image))

    def map(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> the last stage's map (B, output_dim, rows, columns)."""
        found: Tensor = self.stages(self.stem(image))
        return found

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> the places of the map (B, L, output_dim)."""
        return self.map(image).flatten(2).transpose(1, 2)  # (B, W, r, c) -> (B, r c, W)

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, S, S) -> features (B, output_dim) and tokens (B, L, output_dim), in one pass."""
        found = self.map(image)
        return _mean_of_places(found), found.flatten(2).transpose(1, 2)

    def dense_view(self) -> DenseView:
        """The map before its mean."""
        return MapView(self.map, _mean_of_places)

    def take_sizes(self) -> None:
        """Convolutions take any size."""

    def blocks(self) -> list[nn.Module]:
        """The stages."""
        return list(self.stages)

    def to_mapping(self) -> dict[str, Any]:
        """Its name and settings."""
        return {"name": "small_conv", "image_size": self.image_size, **self.settings}


class _Stage(nn.Module):
    """(B, V, r, c) -> (B, W, r / 2, c / 2)."""

    def __init__(self, before: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = _convolved(before, width, pooled=True)
        self.second = _convolved(width, width) if depth > 1 else nn.Identity()
        self.rest = nn.ModuleList(_convolved(width, width) for _ in range(depth - 2))

    def forward(self, image: Tensor) -> Tensor:
        image = self.second(self.first(image))  # (B, V, r, c) -> (B, W, r / 2, c / 2)
        for layer in self.rest:
            image = image + layer(image)
        return image


def _convolved(before: int, width: int, stride: int = 1, pooled: bool = False) -> nn.Sequential:
    """A convolution, perhaps the largest of each 2 x 2 places, normalisation and GELU."""
    layers: list[nn.Module] = [nn.Conv2d(before, width, 3, stride, padding=1, bias=False)]
    if pooled:
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.GELU())


def _mean_of_places(found: Tensor) -> Tensor:
    """(B, W, r, c) -> (B, W)."""
    return found.mean(dim=(2, 3))
