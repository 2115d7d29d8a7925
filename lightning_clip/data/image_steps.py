"""Steps of image transforms: what is decoded of a picture, crops, resizes and borders."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.data.decoding import decode, header_of
from lightning_clip.data.encoded import EncodedCrop
from lightning_clip.data.jpeg import decode_jpeg
from lightning_clip.data.pixel_values import CONVENTION, PixelReading

__all__ = [
    "Cropped",
    "FloorCrop",
    "Grey",
    "ImageTransform",
    "Middle",
    "PadAtEnd",
    "PadToSquare",
    "RandomCrop",
    "Steps",
    "Views",
    "decode_for",
    "reading_of",
]

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
        reading: bands and page, and what is black and what is white in images of more than 8 bits.
        encoded: JPEGs come out as they are, with the crop that the device is to show of them.
    """

    reading: PixelReading = CONVENTION
    encoded: bool = False

    def read(self, image: bytes | Tensor | None) -> Any:
        """Encoded bytes -> what `forward` takes. Draws from torch's generator may begin here, and go on in `forward`.

        Args:
            image: encoded bytes, or pixels.

        Raises:
            ValueError: as `decode`.
        """
        return decode(image, self.reading)

    def extra_repr(self) -> str:
        """Says what decides about pixels and is no step."""
        return "" if self.reading == CONVENTION else str(self.reading)


def reading_of(transform: nn.Module) -> PixelReading:
    """What a transform wants to see of a file, by convention where it does not say."""
    return transform.reading if isinstance(transform, ImageTransform) else CONVENTION


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

    def __init__(self, steps: list[nn.Module], reading: PixelReading = CONVENTION) -> None:
        super().__init__(*steps)
        self.reading = reading
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
            self.reading = transform.reading

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
        self._log_ratio = torch.tensor(draw.ratio).log().tolist()  # in float32, as torchvision has it

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
        """Top, left, height and width of a crop: as `RandomResizedCrop.make_params`, draw by draw, without its tensors."""
        drawn, area = torch.empty(1), height * width
        (least, most), (low, high) = self.draw.scale, self._log_ratio
        for _ in range(10):
            target = area * drawn.uniform_(least, most).item()
            ratio = drawn.uniform_(low, high).exp_().item()
            across, down = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
            if 0 < across <= width and 0 < down <= height:
                top, left = (int(torch.randint(0, room + 1, (1,))) for room in (height - down, width - across))
                return top, left, down, across
        least_ratio, most_ratio = min(self.draw.ratio), max(self.draw.ratio)
        down, across = height, width  # the whole picture, or its middle where that is too long
        if width < least_ratio * height:
            down = round(width / least_ratio)
        elif width > most_ratio * height:
            across = round(height * most_ratio)
        return (height - down) // 2, (width - across) // 2, down, across

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


class Grey(nn.Module):
    """Colours (3, H, W) -> their luma (1, H, W) as ITU-R 601 has it; what is grey already keeps its values exactly."""

    def forward(self, image: Tensor) -> Tensor:
        if image.shape[-3] == 1:
            return image
        red, green, blue = image.to(torch.int32).unbind(-3)
        return ((299 * red + 587 * green + 114 * blue + 500) // 1000).to(image.dtype).unsqueeze(-3)


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

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture behind the resize."""
        ratio = self.size / max(height, width)
        return max(1, round(height * ratio)), max(1, round(width * ratio))

    def corner(self, height: int, width: int) -> tuple[int, int]:
        """Rows above and columns before a picture that was resized."""
        return (self.size - height) // 2, (self.size - width) // 2

    def forward(self, image: Tensor) -> Tensor:
        shape = self.shape(*image.shape[-2:])
        image = pixels.resize(image, list(shape), interpolation=self.mode, antialias=True)
        top, left = self.corner(*shape)
        borders = [left, top, self.size - shape[1] - left, self.size - shape[0] - top]
        padded: Tensor = pixels.pad(image, borders, fill=[self.fill])
        return padded


class PadAtEnd(PadToSquare):
    """Makes a picture square by borders on the right or below, then resizes it, as OWLv2 has it."""

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        side = max(height, width)
        square = pixels.pad(image, [0, 0, side - width, side - height], fill=[self.fill])
        resized: Tensor = pixels.resize(square, [self.size, self.size], interpolation=self.mode, antialias=True)
        return resized
