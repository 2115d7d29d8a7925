"""Decoding of images to uint8 pixels: every kind by a rule, every broken one with a short reason."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.data.dicom import is_dicom, read_dicom
from lightning_clip.data.jpeg import JPEG_START, Header, decode_jpeg, has_end, is_whole, read_header
from lightning_clip.data.pixel_values import CONVENTION, PixelReading, windowed
from lightning_clip.data.tiff import is_tiff, read_tiff

__all__ = ["ONE_TONE", "decode", "from_pil", "header_of", "is_one_tone"]

ONE_TONE = "nearly one tone"  # a finding; the image can be used

# torchvision 0.29 points to TorchCodec, which older versions of torch in our range do not have.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)


def decode(image: bytes | Tensor | None, reading: PixelReading = CONVENTION) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W); a tensor is handed back. With `bands` other than one or three, (C, H, W).

    JPEG goes through libjpeg-turbo, DICOM through pydicom, TIFF of many bands through tifffile, all else through PIL:
    transparency is laid on white, CMYK becomes RGB, more than 8 bits are scaled to 8, animations give their first frame, and
    EXIF orientation is applied.

    Args:
        image: encoded bytes, or pixels.
        reading: bands and page, and what is black and what is white in images of more than 8 bits; by convention 0 to 65,535
            for integers, 0 to 1 for floats that stay within it, 0 to 255 for others, and a DICOM's own window.

    Raises:
        ValueError: the bytes are no image, a broken or a gigantic one, or there are none; the message says which.
    """
    if isinstance(image, Tensor):
        return image
    if image is None:
        raise ValueError("no image")
    if not image:
        raise ValueError("empty file")
    if is_dicom(image):
        return read_dicom(image, reading, _check_size)
    header = header_of(image)
    if header is not None:
        found = decode_jpeg(image, header)
        if found is not None:
            return found
        try:
            buffer = torch.frombuffer(bytearray(image), dtype=torch.uint8)
            decoded: Tensor = decode_image(buffer, mode=ImageReadMode.RGB, apply_exif_orientation=True)
            return decoded
        except RuntimeError:
            pass  # PIL reads some that torchvision refuses, and names the fault of the rest
    try:
        with warnings.catch_warnings():
            # Of sizes, which are looked at here, and of odd metadata, which nobody reads.
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image)) as opened:
                _check_size(*opened.size)
                if opened.format == "TIFF" and reading.bands is not None:
                    return _of_tiff(image, reading)
                if reading.page:
                    _turn_to(opened, reading.page)
                if opened.format in ("JPEG", "MPO") and not has_end(image):
                    raise ValueError("truncated image")  # libjpeg fills what is missing with grey and says nothing
                return from_pil(opened, reading)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if is_tiff(image) and isinstance(error, UnidentifiedImageError):
            return _of_tiff(image, reading)
        raise ValueError(_reason(error)) from error


def header_of(image: bytes) -> Header | None:
    """The header of a JPEG that is whole, as far as its markers tell; None for anything else.

    Raises:
        ValueError: an image too large to be unpacked.
    """
    if not image.startswith(JPEG_START) or not is_whole(image):
        return None
    header = read_header(image)
    if header is not None:
        _check_size(header.height, header.width)  # the decoders have no limit of their own
    return header


def _of_tiff(image: bytes, reading: PixelReading) -> Tensor:
    """A TIFF of many bands; a reason of its own where it is broken."""
    try:
        return read_tiff(image, reading, _check_size)
    except ValueError:
        raise
    except Exception as error:  # tifffile and its codecs raise as they like
        raise ValueError(f"undecodable TIFF ({type(error).__name__})") from error


def _turn_to(image: Image.Image, page: int) -> None:
    pages = getattr(image, "n_frames", 1)
    if page >= pages:
        raise PageMissing(f"image has {pages} pages, not {page + 1}")
    image.seek(page)


class PageMissing(ValueError):
    """A page beyond the last."""


def from_pil(image: Image.Image, reading: PixelReading = CONVENTION) -> Tensor:
    """Any PIL image -> uint8 (3, H, W) by the rules of `decode`.

    Args:
        image: of any mode.
        reading: as for `decode`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image.convert("F"))[None]  # (1, H, W)
        grey = windowed(values, reading, (0.0, _brightest(image.mode, values)))
        return grey.expand(3, -1, -1).contiguous()
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    tensor: Tensor = pixels.pil_to_tensor(image.convert("RGB"))
    return tensor


def is_one_tone(image: Tensor) -> bool:
    """Whether nothing can be seen in an image: an empty scan, or more than 8 bits read in a wrong range.

    Args:
        image: uint8 (3, H, W).
    """
    spread = image.flatten(1).float().std(dim=1, correction=0)  # (3, H, W) -> (3,)
    return bool(spread.max() < 1.0)


def _brightest(mode: str, values: np.ndarray) -> float:
    """What is white in an image of this mode where nobody says it."""
    if mode.startswith("I"):
        return 65535.0
    good = np.nan_to_num(values)
    return 1.0 if good.min() >= 0 and good.max() <= 1 else 255.0


def _check_size(width: int, height: int) -> None:
    """Refuses what unpacks to more than Pillow's 90 megapixels, of whatever format: nothing a training run wants to meet."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError("image too large")


def _reason(error: Exception) -> str:
    """A short reason without addresses or byte counts, so that equal faults count together."""
    text = str(error)
    if isinstance(error, PageMissing):
        return text
    if "cannot identify" in text:
        return "not an image"
    if "truncated" in text or "end of" in text.lower():
        return "truncated image"
    if isinstance(error, Image.DecompressionBombError) or text == "image too large":
        return "image too large"
    return f"undecodable image ({type(error).__name__})"
