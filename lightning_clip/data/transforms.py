"""Image transforms: pixels of any size to square uint8 pixels, one transform for training and one for evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, mapping
from lightning_clip.data.decoding import decode

__all__ = ["ImageTransform", "ImageTransformSettings", "decode_for", "evaluation_transform", "training_transform"]

_LONG = 16  # times the shorter side; photographs and panoramas are resized as CLIP does it
_RESIZES = ("crop", "floor_crop", "squash", "pad")
_INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")


@dataclass(frozen=True)
class ImageTransformSettings:
    """How pixels reach the image tower; part of the model, so that a checkpoint knows it.

    Args:
        augment: False lets training see the images of evaluation, the same each time: no crops, flips or colours are drawn.
        crop_scale: share of the area that a training crop covers, drawn from this range; (0.9, 1.0) in open_clip.
        crop_ratio: aspect ratios of training crops.
        flip: probability of a horizontal flip in training; 0 because captions speak of left and right.
        colour_jitter: strengths of brightness, contrast, saturation and hue in training, None for none.
        colour_jitter_probability: how often it is applied.
        rand_augment: number of operations and their magnitude in 0..30 (Cubuk et al. 2019), None for none; some of them turn,
            shift and invert images, which captions may speak of.
        resize: for evaluation: "crop" (shorter side, then centre crop), "floor_crop" (likewise, the crop's corner rounded down
            as transformers has it), "squash" or "pad" (longer side, then borders).
        fill: brightness of the borders of "pad", 0 to 255.
        interpolation: "bicubic" as CLIP has it, or "bilinear"; antialiased.
        scaled_decoding: JPEGs may be decoded at a fraction of their size that is still larger than the crop: faster for large
            photographs, and pixels differ slightly.
        mean: per channel for pixels in [0, 1]; None takes CLIP's.
        std: likewise.
        views: how often a training image is drawn; further ones are columns "view2", "view3", ... of the batch.
        value_range: darkest and brightest value of images with 16 or 32 bits or floats, such as [0, 4095] for 12 bits in a
            16-bit PNG. None takes 0 to 65,535 for integers, 0 to 1 for floats that stay within it, and 0 to 255 for others.
    """

    augment: bool = True
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0
    colour_jitter: tuple[float, float, float, float] | None = None
    colour_jitter_probability: float = 0.8
    rand_augment: tuple[int, int] | None = None
    resize: str = "crop"
    interpolation: str = "bicubic"
    scaled_decoding: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fill: int = 127
    views: int = 1
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise InputError(f"crop_scale {self.crop_scale} must be two rising shares in (0, 1]")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise InputError(f"crop_ratio {self.crop_ratio} must be two rising numbers above 0")
        for name in ("flip", "colour_jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is a probability in [0, 1]")
        self._check_colours()
        if self.views < 1:
            raise InputError(f"views {self.views} must be at least 1")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise InputError(f"value_range {self.value_range} must be two rising numbers, such as [0, 4095]")
        for name, known in (("resize", _RESIZES), ("interpolation", _INTERPOLATIONS[:2])):
            if (value := getattr(self, name)) not in known:
                raise InputError(f"unknown {name} {value!r}: {nearest(value, known)}")

    def _check_colours(self) -> None:
        if self.colour_jitter is not None and (
            len(self.colour_jitter) != 4 or min(self.colour_jitter) < 0 or self.colour_jitter[3] > 0.5
        ):
            raise InputError(f"colour_jitter {self.colour_jitter} must be four strengths from 0, that of the hue at most 0.5")
        if self.rand_augment is not None and not (self.rand_augment[0] >= 1 and 0 <= self.rand_augment[1] <= 30):
            raise InputError(f"rand_augment {self.rand_augment} must be a number of operations from 1 and a magnitude in 0..30")

    @classmethod
    def of(cls, value: ImageTransformSettings | Mapping[str, Any] | None) -> ImageTransformSettings:
        """Settings from settings, a mapping, or None for the defaults."""
        if isinstance(value, cls):
            return value
        return built(cls, mapping(value, "transform"), "transform")


def training_transform(size: int, settings: ImageTransformSettings) -> nn.Module:
    """Random resized crop and what else is set: uint8 (3, H, W) -> uint8 (3, size, size), drawing from torch's generator.

    With several `views` it gives a tuple of such images, each drawn by itself.
    """
    if settings.views > 1:
        return _Views(training_transform(size, replace(settings, views=1)), settings.views)
    if not settings.augment:
        return evaluation_transform(size, settings)
    steps: list[nn.Module] = [_RandomCrop(size, settings)]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.colour_jitter is not None:
        steps.append(v2.RandomApply([v2.ColorJitter(*settings.colour_jitter)], settings.colour_jitter_probability))
    if settings.rand_augment is not None:
        steps.append(v2.RandAugment(*settings.rand_augment, fill=[127.0]))
    return _Steps(steps, _needed(size, settings) if settings.scaled_decoding else None, settings.value_range)


def evaluation_transform(size: int, settings: ImageTransformSettings) -> nn.Module:
    """The same pixels each time: uint8 (3, H, W) -> uint8 (3, size, size)."""
    mode = InterpolationMode(settings.interpolation)
    if settings.resize == "pad":
        steps: list[nn.Module] = [_PadToSquare(size, mode, settings.fill)]
    elif settings.resize == "squash":
        steps = [v2.Resize((size, size), interpolation=mode, antialias=True)]
    else:
        crop = v2.CenterCrop(size) if settings.resize == "crop" else _FloorCrop(size)
        steps = [_Middle(), v2.Resize(size, interpolation=mode, antialias=True), crop]
    return _Steps(steps, size if settings.scaled_decoding else None, settings.value_range)


class ImageTransform(nn.Module):
    """Base of what brings pixels to the model's size: uint8 (3, H, W) of any size -> uint8 (3, S, S).

    Any other `nn.Module` will do as a transform, too; JPEGs are then decoded whole.

    Attributes:
        at_least: pixels that both sides must keep if a JPEG is decoded at a fraction of its size; None decodes it whole.
        value_range: what is black and what is white in images of more than 8 bits; None goes by their kind.
    """

    at_least: int | None = None
    value_range: tuple[float, float] | None = None

    def extra_repr(self) -> str:
        """Says what decides about pixels and is no step."""
        ranged = "" if self.value_range is None else f", value_range={tuple(self.value_range)}"
        return f"at_least={self.at_least}{ranged}"


def decode_for(image: bytes | Tensor | None, transform: nn.Module) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W), decoded as a transform wants it.

    Args:
        image: encoded bytes, or pixels.
        transform: what the pixels go to.

    Raises:
        ValueError: as `decode`.
    """
    if not isinstance(transform, ImageTransform):
        return decode(image)
    return decode(image, transform.at_least, transform.value_range)


class _Steps(ImageTransform, nn.Sequential):
    """Steps in order."""

    def __init__(self, steps: list[nn.Module], at_least: int | None, value_range: tuple[float, float] | None = None) -> None:
        super().__init__(*steps)
        self.at_least, self.value_range = at_least, value_range


class _Views(ImageTransform):
    """A transform several times over: uint8 (3, H, W) -> as many uint8 (3, S, S)."""

    def __init__(self, transform: nn.Module, count: int) -> None:
        super().__init__()
        self.transform, self.count = transform, count
        if isinstance(transform, ImageTransform):
            self.at_least, self.value_range = transform.at_least, transform.value_range

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.transform(image) for _ in range(self.count))


class _RandomCrop(nn.Module):
    """torchvision's RandomResizedCrop with the same draws, without the dispatch that costs a third of its time."""

    def __init__(self, size: int, settings: ImageTransformSettings) -> None:
        super().__init__()
        self.size, self.mode = [size, size], InterpolationMode(settings.interpolation)
        self.draw = v2.RandomResizedCrop(size, scale=settings.crop_scale, ratio=settings.crop_ratio, antialias=True)

    def forward(self, image: Tensor) -> Tensor:
        place = self.draw.make_params([image])
        cropped: Tensor = pixels.resized_crop_image(image, **place, size=self.size, interpolation=self.mode, antialias=True)
        return cropped


class _Middle(nn.Module):
    """Of a very long image the part that a centre crop can see, before it is resized: 60,000 x 4 would become 3,360,000 x 224.

    One shorter side is kept on each side of the crop, so that what the filter reads there is the same.
    """

    def forward(self, image: Tensor) -> Tensor:
        for axis in (-1, -2):
            side, other = image.shape[axis], image.shape[-3 - axis]
            if side > _LONG * other:
                kept = 3 * other + (side - other) % 2  # the same middle, to the pixel
                image = image.narrow(axis, (side - kept) // 2, kept)
        return image


class _FloorCrop(nn.Module):
    """The middle of an image, its corner rounded down where torchvision rounds to even."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def extra_repr(self) -> str:
        return f"size={self.size}"

    def forward(self, image: Tensor) -> Tensor:
        top, left = ((side - self.size) // 2 for side in image.shape[-2:])
        return image[..., top : top + self.size, left : left + self.size]


class _PadToSquare(nn.Module):
    """Resizes the longer side and fills the rest with one grey."""

    def __init__(self, size: int, mode: InterpolationMode, fill: int) -> None:
        super().__init__()
        self.size, self.mode, self.fill = size, mode, float(fill)

    def extra_repr(self) -> str:
        return f"size={self.size}, interpolation={self.mode.value}, fill={self.fill:g}"

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        ratio = self.size / max(height, width)
        shape = [max(1, round(height * ratio)), max(1, round(width * ratio))]
        image = pixels.resize(image, shape, interpolation=self.mode, antialias=True)
        top, left = (self.size - shape[0]) // 2, (self.size - shape[1]) // 2
        borders = [left, top, self.size - shape[1] - left, self.size - shape[0] - top]
        padded: Tensor = pixels.pad(image, borders, fill=[self.fill])
        return padded


def _needed(size: int, settings: ImageTransformSettings) -> int:
    """Pixels of an image's shorter side for which the smallest crop still has `size`."""
    low, high = settings.crop_ratio
    return math.ceil(size / math.sqrt(settings.crop_scale[0] * min(low, 1 / high)))
