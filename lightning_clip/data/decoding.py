"""Decoding of images to uint8 pixels: every kind by a rule, every broken one with a short reason."""

from __future__ import annotations

import io
import warnings

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as pixels

from lightning_clip.data.jpeg import JPEG_START, Header, decode_jpeg, has_end, is_whole, read_header

__all__ = ["ONE_TONE", "decode", "from_pil", "header_of", "is_one_tone"]

ONE_TONE = "nearly one tone"  # a finding; the image can be used

# torchvision 0.29 points to TorchCodec, which older versions of torch in our range do not have.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)


def decode(image: bytes | Tensor | None, value_range: tuple[float, float] | None = None) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W); a tensor is handed back.

    JPEG goes through libjpeg-turbo, everything else through PIL: transparency is laid on white, CMYK becomes RGB, more than 8
    bits are scaled to 8, animations give their first frame, and EXIF orientation is applied.

    Args:
        image: encoded bytes, or pixels.
        value_range: what is black and what is white in images of more than 8 bits; None takes 0 to 65,535 for integers, 0 to 1
            for floats that stay within it, and 0 to 255 for others.

    Raises:
        ValueError: the bytes are no image, a broken or a gigantic one, or there are none; the message says which.
    """
    if isinstance(image, Tensor):
        return image
    if image is None:
        raise ValueError("no image")
    if not image:
        raise ValueError("empty file")
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
                if opened.format in ("JPEG", "MPO") and not has_end(image):
                    raise ValueError("truncated image")  # libjpeg fills what is missing with grey and says nothing
                return from_pil(opened, value_range)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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


def from_pil(image: Image.Image, value_range: tuple[float, float] | None = None) -> Tensor:
    """Any PIL image -> uint8 (3, H, W) by the rules of `decode`.

    Args:
        image: of any mode.
        value_range: as for `decode`.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = pixels.pil_to_tensor(image.convert("F")).nan_to_num()
        low, high = value_range or (0.0, _brightest(image.mode, values))
        grey = ((values - low) * (255.0 / (high - low))).clamp(0, 255).to(torch.uint8)
        three: Tensor = grey.expand(3, -1, -1).contiguous()
        return three
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


def _brightest(mode: str, values: Tensor) -> float:
    """What is white in an image of this mode where nobody says it."""
    if mode.startswith("I"):
        return 65535.0
    return 1.0 if values.min() >= 0 and values.max() <= 1 else 255.0


def _check_size(width: int, height: int) -> None:
    """Refuses what unpacks to more than Pillow's 90 megapixels, of whatever format: nothing a training run wants to meet."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError("image too large")


def _reason(error: Exception) -> str:
    """A short reason without addresses or byte counts, so that equal faults count together."""
    text = str(error)
    if "cannot identify" in text:
        return "not an image"
    if "truncated" in text or "end of" in text.lower():
        return "truncated image"
    if isinstance(error, Image.DecompressionBombError) or text == "image too large":
        return "image too large"
    return f"undecodable image ({type(error).__name__})"
