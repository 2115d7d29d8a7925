"""Decoding of images to uint8 pixels: every kind by a rule, every broken one with a short reason."""

from __future__ import annotations

import io
import warnings

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2 import functional as pixels

__all__ = ["ONE_TONE", "decode", "from_pil", "is_one_tone"]

ONE_TONE = "nearly one tone"  # a finding; the image can be used

# torchvision 0.29 points to TorchCodec, which older versions of torch in our range do not have.
warnings.filterwarnings("ignore", "The image decoding and encoding capabilities of TorchVision", DeprecationWarning)
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # JPEG markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that tell the size


def decode(image: bytes | Tensor | None, at_least: int | None = None, value_range: tuple[float, float] | None = None) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W); a tensor is handed back.

    JPEG goes through torchvision, everything else through PIL: transparency is laid on white, CMYK becomes RGB, more than 8
    bits are scaled to 8, animations give their first frame, and EXIF orientation is applied.

    Args:
        image: encoded bytes, or pixels.
        at_least: JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep so many pixels
            (scaling inside the decoder: several times faster for large photographs, slightly different pixels).
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
    if image.startswith(_JPEG_START) and at_least is None and _is_whole(image):
        _check_pixels(image)
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
                if opened.format in ("JPEG", "MPO") and not _has_end(image):
                    raise ValueError("truncated image")  # libjpeg fills what is missing with grey and says nothing
                if at_least is not None:
                    opened.draft("RGB", (at_least, at_least))
                return from_pil(opened, value_range)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(error)) from error


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


def _is_whole(image: bytes) -> bool:
    """Whether a JPEG has its end marker: torchvision fills what is missing with grey and says nothing."""
    return image.rfind(_JPEG_END, -4096) >= 0


def _has_end(image: bytes) -> bool:
    """Whether an end marker stands anywhere after the pixels' beginning; cameras may write more behind it."""
    start = image.rfind(b"\xff\xda")
    return start >= 0 and image.find(_JPEG_END, start) >= 0


def _check_size(width: int, height: int) -> None:
    """Refuses what unpacks to more than Pillow's 90 megapixels, of whatever format: nothing a training run wants to meet."""
    if Image.MAX_IMAGE_PIXELS is not None and height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError("image too large")


def _check_pixels(image: bytes) -> None:
    """Reads a JPEG's size from its header, as torchvision's decoder has no limit of its own."""
    place = 2
    while place + 9 < len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = (
                int.from_bytes(image[place + 5 : place + 7], "big"),
                int.from_bytes(image[place + 7 : place + 9], "big"),
            )
            _check_size(width, height)
            return
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")


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
