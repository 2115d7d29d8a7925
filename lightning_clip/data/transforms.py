"""Image bytes arrive, square uint8 pixels leave: decoding by rule, then one transform for training and one for evaluation."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.errors import InputError, nearest

__all__ = ["ImageTransformSettings", "decode", "evaluation_transform", "from_pil", "training_transform"]

# torchvision 0.29 points to TorchCodec, which older versions of torch in our range do not have.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)
_JPEG_START = b"\xff\xd8\xff"
_RESIZES = ("crop", "squash", "pad")


@dataclass(frozen=True)
class ImageTransformSettings:
    """How pixels reach the image tower; part of the model, so that a checkpoint knows it.

    Args:
        crop_scale: share of the area that a training crop covers, drawn from this range; (0.9, 1.0) in open_clip.
        crop_ratio: aspect ratios of training crops.
        flip: probability of a horizontal flip in training; 0 because captions speak of left and right.
        resize: for evaluation: "crop" (shorter side, then centre crop), "squash" or "pad" (longer side, then borders).
        mean: per channel for pixels in [0, 1]; None takes CLIP's.
        std: likewise.
    """

    crop_scale: tuple[float, float] = (0.9, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.0
    resize: str = "crop"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise InputError(f"crop_scale {self.crop_scale} must be two rising shares in (0, 1]")
        if not 0 <= self.flip <= 1:
            raise InputError(f"flip {self.flip} is a probability in [0, 1]")
        if self.resize not in _RESIZES:
            raise InputError(f"unknown resize {self.resize!r}: {nearest(self.resize, _RESIZES)}")

    @classmethod
    def of(cls, value: ImageTransformSettings | Mapping[str, Any] | None) -> ImageTransformSettings:
        """Settings from settings, a mapping, or None for the defaults."""
        if isinstance(value, cls):
            return value
        known = [field.name for field in fields(cls)]
        for key in value or {}:  # type: ignore[union-attr]
            if key not in known:
                raise InputError(f"transform has no setting {key!r}: {nearest(key, known)}")
        return cls(**{key: tuple(item) if isinstance(item, list) else item for key, item in dict(value or {}).items()})  # type: ignore[arg-type]


def training_transform(size: int, settings: ImageTransformSettings) -> nn.Module:
    """Random resized crop and flip: uint8 (3, H, W) -> uint8 (3, size, size), drawing from torch's generator."""
    crop = v2.RandomResizedCrop(
        size,
        scale=settings.crop_scale,
        ratio=settings.crop_ratio,
        interpolation=InterpolationMode.BICUBIC,
        antialias=True,
    )
    return _in_order(crop, v2.RandomHorizontalFlip(settings.flip)) if settings.flip else _in_order(crop)


def evaluation_transform(size: int, settings: ImageTransformSettings) -> nn.Module:
    """The same pixels each time: uint8 (3, H, W) -> uint8 (3, size, size)."""
    if settings.resize == "pad":
        return _PadToSquare(size)
    target = size if settings.resize == "crop" else (size, size)
    resize = v2.Resize(target, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return _in_order(resize, v2.CenterCrop(size)) if settings.resize == "crop" else _in_order(resize)


def _in_order(*steps: nn.Module) -> nn.Module:
    composed: nn.Module = v2.Compose(steps)
    return composed


class _PadToSquare(nn.Module):
    """Resizes the longer side and fills the rest with the mean grey."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        ratio = self.size / max(height, width)
        shape = [max(1, round(height * ratio)), max(1, round(width * ratio))]
        image = pixels.resize(image, shape, interpolation=InterpolationMode.BICUBIC, antialias=True)
        top, left = (self.size - shape[0]) // 2, (self.size - shape[1]) // 2
        borders = [left, top, self.size - shape[1] - left, self.size - shape[0] - top]
        padded: Tensor = pixels.pad(image, borders, fill=[127.0])
        return padded


def decode(image: bytes | Tensor) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W); a tensor is handed back.

    JPEG goes through torchvision, everything else through PIL: transparency is laid on white, 16 bits are scaled to 8,
    animations give their first frame, and EXIF orientation is applied.

    Raises:
        ValueError: the bytes are no image, or a broken one; the message says which.
    """
    if isinstance(image, Tensor):
        return image
    if not image:
        raise ValueError("empty file")
    if image.startswith(_JPEG_START):
        try:
            buffer = torch.frombuffer(bytearray(image), dtype=torch.uint8)
            decoded: Tensor = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
            return decoded
        except RuntimeError:
            pass  # PIL reads some that torchvision refuses, and names the fault of the rest
    try:
        # Pillow warns of pictures that unpack to more than 90 megapixels: nothing a training run wants to meet.
        with warnings.catch_warnings(), Image.open(io.BytesIO(image)) as opened:
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return from_pil(opened)
    except (OSError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_reason(error)) from error


def from_pil(image: Image.Image) -> Tensor:
    """Any PIL picture -> uint8 (3, H, W) by the rules of `decode`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        high = 65535.0 if image.mode.startswith("I") else 255.0
        values = pixels.pil_to_tensor(image.convert("F"))
        grey = (values * (255.0 / high)).clamp(0, 255).to(torch.uint8)
        three: Tensor = grey.expand(3, -1, -1).contiguous()
        return three
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    tensor: Tensor = pixels.pil_to_tensor(image.convert("RGB"))
    return tensor


def _reason(error: Exception) -> str:
    """A short reason without addresses or byte counts, so that equal faults count together."""
    text = str(error)
    if "cannot identify" in text:
        return "not an image"
    if "truncated" in text:
        return "truncated image"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "image too large"
    return f"undecodable image ({type(error).__name__})"
