"""Image transforms: pixels of any size to square uint8 pixels, one transform for training and one for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, in_range, mapping
from lightning_clip.data.encoded import has_decoder
from lightning_clip.data.image_steps import (
    FloorCrop,
    Grey,
    ImageTransform,
    Middle,
    PadAtEnd,
    PadToSquare,
    RandomCrop,
    Steps,
    Views,
    decode_for,
    reading_of,
)
from lightning_clip.data.patched import KeepShapeCrop, ToPatches
from lightning_clip.data.pixel_values import PixelReading

__all__ = ["ImageTransform", "ImageTransformSettings", "decode_for", "evaluation_transform", "reading_of", "training_transform"]

log = logging.getLogger(__name__)
_RESIZES = ("crop", "floor_crop", "squash", "pad", "pad_end", "patches")
_CUT = ("crop", "floor_crop", "squash")  # those that may resize to more than the tower sees, and cut the rest
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
            as transformers has it), "squash", "pad" (longer side, then borders), "pad_end" (borders on the right and below), or
            "patches": in training, too, a picture keeps its shape and becomes up to `max_patches` patches, for NaFlex towers.
        resize_to: pixels to which evaluation resizes before a centre crop of the tower's size, such as 256 for one of 224: the
            shorter side for "crop" and "floor_crop", both for "squash". None: the tower's own size, of which nothing is cut.
        patch_size: side of a patch in pixels, for "patches".
        max_patches: the most patches of a picture, for "patches".
        fill: brightness of these borders, 0 to 255.
        interpolation: "bicubic" as CLIP has it, or "bilinear"; antialiased.
        scaled_decoding: training decodes JPEGs at a half, a quarter or an eighth where the crop then still has so many times
            the pixels of the result on each side, at least 1: faster for large photographs. Of Flickr8k's pictures at least
            98 % are then within 40 dB of the whole decode at 2, and 81 % at 1.25. None decodes them whole.
        decoder: "cpu" decodes in the loader's workers; "cuda" lets them hand on training JPEGs as they are, which the device
            decodes whole, crops and resizes. Other formats, evaluation and machines without CUDA stay with the CPU.
        mean: per channel for pixels in [0, 1]; None takes CLIP's.
        std: likewise.
        views: how often a training image is drawn; further ones are columns "view2", "view3", ... of the batch.
        window: darkest and brightest value of images with 16 or 32 bits or floats, such as [0, 4095] for 12 bits in a 16-bit
            PNG, or [-1000, 400] Hounsfield units for lungs. None takes 0 to 65,535 for integers, 0 to 1 for floats that stay
            within it, 0 to 255 for others, and for DICOM the file's own.
        percentiles: in place of a window, shares in percent that become black and white in each image, such as [1, 99].
        bands: of images with several, which are read, from 1, such as [4, 3, 2] for the red, green and blue of Sentinel-2.
            One is repeated to three; of two, or more than three, the tower has as many channels.
        page: of TIFF and DICOM files with several pages or frames, from 0.
        channels: 1 gives a tower of one channel grey pixels; None gives 3, or as many as `bands`.
    """

    augment: bool = True
    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0
    colour_jitter: tuple[float, float, float, float] | None = None
    colour_jitter_probability: float = 0.8
    rand_augment: tuple[int, int] | None = None
    resize: str = "crop"
    resize_to: int | None = None
    patch_size: int = 16
    max_patches: int = 256
    interpolation: str = "bicubic"
    scaled_decoding: float | None = 2.0
    decoder: str = "cpu"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    fill: int = 127
    views: int = 1
    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    page: int = 0
    channels: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise InputError(f"crop_scale {self.crop_scale} must be two rising shares in (0, 1]")
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise InputError(f"crop_ratio {self.crop_ratio} must be two rising numbers above 0")
        for name in ("flip", "colour_jitter_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)} is a probability in [0, 1]")
        self._check_colours()
        self._check_patches()
        if self.scaled_decoding is not None and not self.scaled_decoding >= 1:
            raise InputError(f"scaled_decoding {self.scaled_decoding} must be a number from 1, or null to decode JPEGs whole")
        if self.views < 1:
            raise InputError(f"views {self.views} must be at least 1")
        self._check_channels()
        known_names = {"resize": _RESIZES, "interpolation": _INTERPOLATIONS[:2], "decoder": ("cpu", "cuda")}
        for name, known in known_names.items():
            if (value := getattr(self, name)) not in known:
                raise InputError(f"unknown {name} {value!r}: {nearest(value, known)}")

        changed = [name for name in ("flip", "colour_jitter", "rand_augment") if getattr(self, name)]
        changed += ["views"] * (self.views > 1)
        if self.decoder == "cuda" and changed:
            raise InputError(f"decoder 'cuda' crops and resizes alone, but {changed[0]} is set: set decoder to cpu, or omit it")

    def _check_patches(self) -> None:
        if self.resize_to is not None:
            in_range("transform.resize_to", self.resize_to, 1, whole=True)
            if self.resize not in _CUT:
                raise InputError(f"resize {self.resize!r} cuts nothing, but resize_to is {self.resize_to}: omit it")
        for name in ("patch_size", "max_patches"):
            in_range(f"transform.{name}", getattr(self, name), 1, whole=True)
        if self.resize == "patches" and (self.views > 1 or self.decoder == "cuda"):
            setting = "views" if self.views > 1 else "decoder"
            raise InputError(f"resize 'patches' is not supported with {setting} {getattr(self, setting)!r}: omit {setting}")
        if self.resize == "patches" and self.channel_count != 3:
            raise InputError(f"resize 'patches' reads 3 channels, and mean has {self.channel_count}: take another resize")

    def _check_colours(self) -> None:
        if self.colour_jitter is not None and (
            len(self.colour_jitter) != 4 or min(self.colour_jitter) < 0 or self.colour_jitter[3] > 0.5
        ):
            raise InputError(f"colour_jitter {self.colour_jitter} must be four strengths from 0, that of the hue at most 0.5")
        if self.rand_augment is not None and not (self.rand_augment[0] >= 1 and 0 <= self.rand_augment[1] <= 30):
            raise InputError(f"rand_augment {self.rand_augment} must be a number of operations from 1 and a magnitude in 0..30")

    def _check_channels(self) -> None:
        named = len(self.reading.bands or (1,))
        allowed = (1, 3) if named in (1, 3) else (named,)
        if self.channels is not None and self.channels not in allowed:
            shown = "image" if self.bands is None else f"{named} bands"
            raise InputError(f"channels {self.channels} of {shown} must be {' or '.join(map(str, allowed))}")
        if self.channel_count not in (1, 3) and (self.colour_jitter or self.rand_augment):
            raise InputError(f"colour_jitter and rand_augment know colours, not {self.channel_count} bands: omit them")
        for name in ("mean", "std"):
            given = getattr(self, name)
            if given is not None and len(given) != self.channel_count:
                raise InputError(f"{name} {list(given)} has {len(given)} values for {self.channel_count} channels")

    @property
    def reading(self) -> PixelReading:
        """What is shown of files with more than three times 8 bits."""
        return PixelReading(self.window, self.percentiles, None if self.bands is None else tuple(self.bands), self.page)

    @property
    def channel_count(self) -> int:
        """Channels of the image tower."""
        return self.channels or (3 if self.bands is None or len(self.bands) in (1, 3) else len(self.bands))

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
        return Views(training_transform(size, replace(settings, views=1)), settings.views)
    if not settings.augment:
        return evaluation_transform(size, settings)
    draw = v2.RandomResizedCrop(size, scale=settings.crop_scale, ratio=settings.crop_ratio, antialias=True)
    encoded = settings.decoder == "cuda" and has_decoder()
    if settings.decoder == "cuda" and not encoded:
        log.warning("decoder is 'cuda' but there is no CUDA device: the loader's workers decode JPEGs")
    mode = InterpolationMode(settings.interpolation)
    steps: list[nn.Module] = [RandomCrop(draw, size, mode, settings.scaled_decoding, encoded)]
    if settings.resize == "patches":
        steps = [KeepShapeCrop(settings.crop_scale)]
    if settings.flip:
        steps.append(v2.RandomHorizontalFlip(settings.flip))
    if settings.colour_jitter is not None:
        steps.append(v2.RandomApply([v2.ColorJitter(*settings.colour_jitter)], settings.colour_jitter_probability))
    if settings.rand_augment is not None:
        steps.append(v2.RandAugment(*settings.rand_augment, fill=[127.0]))
    if settings.resize == "patches":
        steps.append(ToPatches(settings.patch_size, settings.max_patches, mode))
    return Steps([*steps, *_greys(settings)], settings.reading)


def _greys(settings: ImageTransformSettings) -> list[nn.Module]:
    return [Grey()] if settings.channel_count == 1 else []


def evaluation_transform(size: int, settings: ImageTransformSettings) -> nn.Module:
    """The same pixels each time: uint8 (3, H, W) -> uint8 (3, size, size)."""
    mode, side = InterpolationMode(settings.interpolation), settings.resize_to or size
    if side < size:
        raise InputError(f"resize_to {side} is below the tower's image_size {size}: give at least so many pixels, or omit it")
    if settings.resize in ("pad", "pad_end"):
        pad = PadToSquare if settings.resize == "pad" else PadAtEnd
        steps: list[nn.Module] = [pad(size, mode, settings.fill)]
    elif settings.resize == "patches":
        steps = [ToPatches(settings.patch_size, settings.max_patches, mode)]
    elif settings.resize == "squash":
        steps = [v2.Resize((side, side), interpolation=mode, antialias=True), *([FloorCrop(size)] if side > size else [])]
    else:
        crop = v2.CenterCrop(size) if settings.resize == "crop" else FloorCrop(size)
        steps = [Middle(), v2.Resize(side, interpolation=mode, antialias=True), crop]
    return Steps([*steps, *_greys(settings)], settings.reading)
