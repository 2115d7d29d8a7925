"""Steps of image transforms: what is decoded of a picture, crops, resizes and borders."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.data.decoding import decode, header_of
from lightning_clip.data.encoded import EncodedCrop
from lightning_clip.data.jpeg import decode_jpeg

__all__ = ["Cropped", "FloorCrop", "ImageTransform", "Middle", "PadToSquare", "RandomCrop", "Steps", "Views", "decode_for"]

_LONG = 16  # times the shorter side; photographs and panoramas are resized as CLIP does it


class Cropped(NamedTuple):
    """What a training crop shows of a picture, already drawn and not yet resized.

    Attributes:
        pixels: uint8 (3, h, w).
    """

    pixels: Tensor


class ImageTransform(nn.Module):
    """Base of what brings pixels to the model's size: uint8 (3, H, W) of any size -> uint8 (3, S, S).

    Any other `nn.Module` will do as a transform, too; images are then decoded whole.

    Attributes:
        value_range: what is black and what is white in images of more than 8 bits; None goes by their kind.
        encoded: JPEGs come out as they are, with the crop that the device is to show of them.
    """

    value_range: tuple[float, float] | None = None
    encoded: bool = False

    def read(self, image: bytes | Tensor | None) -> Any:
        """Encoded bytes -> what `forward` takes. Draws from torch's generator may begin here, and go on in `forward`.

        Args:
            image: encoded bytes, or pixels.

        Raises:
            ValueError: as `decode`.
        """
        return decode(image, self.value_range)

    def extra_repr(self) -> str:
        """Says what decides about pixels and is no step."""
        return "" if self.value_range is None else f"value_range={tuple(self.value_range)}"


def decode_for(image: bytes | Tensor | None, transform: nn.Module) -> Any:
    """Encoded bytes -> what a transform takes: uint8 (3, H, W), or what it has chosen of it.

    Args:
        image: encoded bytes, or pixels.
        transform: what it goes to next, with torch's generator as it is left here.

    Raises:
        ValueError: as `decode`.
    """
    return transform.read(image) if isinstance(transform, ImageTransform) else decode(image)


class Steps(ImageTransform, nn.Sequential):
    """Steps in order."""

    def __init__(self, steps: list[nn.Module], value_range: tuple[float, float] | None = None) -> None:
        super().__init__(*steps)
        self.value_range = value_range
        self.encoded = isinstance(self[0], RandomCrop) and self[0].encoded

    def read(self, image: bytes | Tensor | None) -> Any:
        first = self[0]
        found = first.read(image) if isinstance(first, RandomCrop) and isinstance(image, bytes) else None
        return super().read(image) if found is None else found


class Views(ImageTransform):
    """A transform several times over: uint8 (3, H, W) -> as many uint8 (3, S, S)."""

    def __init__(self, transform: nn.Module, count: int) -> None:
        super().__init__()
        self.transform, self.count = transform, count
        if isinstance(transform, ImageTransform):
            self.value_range = transform.value_range

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.transform(image) for _ in range(self.count))


class RandomCrop(nn.Module):
    """torchvision's RandomResizedCrop with the same draws, without the dispatch that costs a third of its time.

    Args:
        draw: of the crop.
        size: of the result.
        mode: of the resize.
        scaled: pixels on a side of a crop for each of the result that a JPEG must keep to be decoded at a half, a quarter or
            an eighth; None decodes it whole.
        encoded: JPEGs are not decoded here, but on a device.
    """

    def __init__(
        self,
        draw: v2.RandomResizedCrop,
        size: int,
        mode: InterpolationMode,
        scaled: float | None = None,
        encoded: bool = False,
    ) -> None:
        super().__init__()
        self.draw, self.size, self.mode, self.scaled, self.encoded = draw, size, mode, scaled, encoded

    def extra_repr(self) -> str:
        return f"scaled={self.scaled}"

    def read(self, image: bytes) -> Cropped | EncodedCrop | None:
        """The crop of a JPEG, drawn before it is decoded at the scale that the crop needs; None where all crops need it whole.

        Its corners then lie on the grid of what was decoded, less than one decoded pixel from where they were drawn.
        """
        header = header_of(image) if self.scaled is not None or self.encoded else None
        if header is None or not header.plain:
            return None
        if self.encoded:
            return EncodedCrop(image, self.drawn(header.height, header.width), self.size, self.mode.value)
        if self._step(header.height, header.width) == 1:
            return None  # no crop is so large
        top, left, height, width = self.drawn(header.height, header.width)
        for step in (self._step(height, width), 1):
            whole = decode_jpeg(image, header, step)
            if whole is not None:
                break
        else:
            whole, step = decode(image), 1
        top, left, height, width = (side // step for side in (top, left, height, width))
        return Cropped(whole[:, top : top + height, left : left + width])

    def forward(self, image: Tensor | Cropped | EncodedCrop) -> Tensor | EncodedCrop:
        if isinstance(image, EncodedCrop):
            return image
        if not isinstance(image, Cropped):
            top, left, height, width = self.drawn(*image.shape[-2:])
            image = Cropped(image[..., top : top + height, left : left + width])
        crop = image.pixels
        if crop.stride(0) == 1:  # decoders give the channels last; the resize reads them sooner side by side
            crop = crop[None].contiguous(memory_format=torch.channels_last)[0]
        resized: Tensor = pixels.resize_image(crop, [self.size, self.size], interpolation=self.mode, antialias=True)
        return resized

    def drawn(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a crop."""
        place = self.draw.make_params([torch.empty(()).expand(3, height, width)])
        return place["top"], place["left"], place["height"], place["width"]

    def _step(self, height: int, width: int) -> int:
        """Pixels of the file that one decoded pixel may stand for, so that a crop of this size keeps enough."""
        assert self.scaled is not None
        return next((step for step in (8, 4, 2) if min(height, width) // step >= self.scaled * self.size), 1)


class Middle(nn.Module):
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


class FloorCrop(nn.Module):
    """The middle of an image, its corner rounded down where torchvision rounds to even."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def extra_repr(self) -> str:
        return f"size={self.size}"

    def forward(self, image: Tensor) -> Tensor:
        top, left = ((side - self.size) // 2 for side in image.shape[-2:])
        return image[..., top : top + self.size, left : left + self.size]


class PadToSquare(nn.Module):
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
