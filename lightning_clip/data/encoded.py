"""JPEGs that leave the loader's workers encoded, and are decoded, cropped and resized on the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data.decoding import decode
from lightning_clip.data.resized import resized

__all__ = ["EncodedCrop", "EncodedImages", "encoded_images", "has_decoder", "on_device", "with_pixels"]

log = logging.getLogger(__name__)
Decode = Callable[[list[Tensor], torch.device], list[Tensor]]


@dataclass(frozen=True)
class EncodedCrop:
    """A JPEG and what of it is shown.

    Args:
        data: the file.
        box: top, left, height and width, in pixels of the file.
        size: side of the result.
        mode: of the resize.
    """

    data: bytes
    box: tuple[int, int, int, int]
    size: int
    mode: str


class EncodedImages(NamedTuple):
    """Images of a batch of which some are still encoded.

    Attributes:
        data: uint8 (N,), E files one after the other: one tensor travels from a worker sooner than many.
        lengths: of the files.
        boxes: top, left, height and width of what is shown of each, in pixels of the file.
        rows: their places in the batch.
        size: side S of the result.
        mode: of the resize.
        pixels: uint8 (B - E, 3, S, S) of the others, which are no JPEGs and were decoded in a worker.
    """

    data: Tensor
    lengths: list[int]
    boxes: list[tuple[int, int, int, int]]
    rows: list[int]
    size: int
    mode: str
    pixels: Tensor


def encoded_images(images: Sequence[Tensor | EncodedCrop]) -> EncodedImages:
    """Those of a batch, at least one of them encoded.

    Args:
        images: each pixels uint8 (3, S, S), or encoded.
    """
    crops = [image for image in images if isinstance(image, EncodedCrop)]
    others = [image for image in images if isinstance(image, Tensor)]
    size = crops[0].size
    return EncodedImages(
        data=torch.frombuffer(bytearray(b"".join(crop.data for crop in crops)), dtype=torch.uint8),
        lengths=[len(crop.data) for crop in crops],
        boxes=[crop.box for crop in crops],
        rows=[row for row, image in enumerate(images) if isinstance(image, EncodedCrop)],
        size=size,
        mode=crops[0].mode,
        pixels=torch.stack(others) if others else torch.empty(0, 3, size, size, dtype=torch.uint8),
    )


def has_decoder() -> bool:
    """Whether a device of this machine decodes JPEGs."""
    return torch.cuda.is_available()


def on_device(images: EncodedImages, device: torch.device, by: Decode | None = None) -> Tensor:
    """Pixels uint8 (B, 3, S, S) on a device.

    Args:
        images: from a worker.
        device: decodes them, with nvJPEG where it is a CUDA device.
        by: files and device -> pixels (3, H, W) each; None takes torchvision's. Where it raises a RuntimeError the CPU decodes.

    Raises:
        InputError: a file that no decoder reads.
    """
    side = [images.size, images.size]
    result = torch.empty(len(images.rows) + len(images.pixels), 3, *side, dtype=torch.uint8, device=device)
    if len(images.pixels):
        others = sorted(set(range(len(result))) - set(images.rows))
        result[torch.tensor(others, device=device)] = images.pixels.to(device)
    files = list(torch.split(images.data, images.lengths))
    found = _pixels(files, device, by or _torchvision)
    result[torch.tensor(images.rows, device=device)] = _resized(found, images)
    return result


def _resized(pictures: list[Tensor], images: EncodedImages) -> Tensor:
    """The boxes of pictures (3, H, W) -> (E, 3, S, S): on the CPU as workers make them, on a device all together."""
    if pictures[0].is_cuda:
        return resized(pictures, images.boxes, images.size, images.mode)
    side, bend = [images.size, images.size], InterpolationMode(images.mode)
    crops = [
        picture[:, top : top + height, left : left + width]
        for picture, (top, left, height, width) in zip(pictures, images.boxes, strict=True)
    ]
    return torch.stack([pixels.resize_image(crop, side, interpolation=bend, antialias=True) for crop in crops])


def with_pixels(batch: PairBatch, device: torch.device) -> PairBatch:
    """A batch whose images are pixels.

    Args:
        batch: from the loader.
        device: where images that are still encoded are decoded.
    """
    images = batch.image
    return batch._replace(image=on_device(images, device)) if isinstance(images, EncodedImages) else batch


def _torchvision(files: list[Tensor], device: torch.device) -> list[Tensor]:
    found: list[Tensor] = decode_jpeg(files, mode=ImageReadMode.RGB, device=device)
    return found


def _pixels(files: list[Tensor], device: torch.device, by: Decode) -> list[Tensor]:
    """Pixels (3, H, W) of each file; one by one on the CPU where the device refuses any of them."""
    try:
        return by(files, device)
    except RuntimeError as error:
        log.warning("a batch of JPEGs is decoded on the CPU: %s", str(error).splitlines()[0])
    try:
        return [decode(bytes(file.numpy().tobytes())).to(device) for file in files]
    except ValueError as error:
        raise InputError(
            f"a JPEG cannot be decoded ({error}), too late to be skipped: find it by `lightning-clip data verify`, or set the "
            "image transform's decoder to cpu"
        ) from error
