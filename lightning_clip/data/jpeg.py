"""JPEG files by libjpeg-turbo: their header, and their pixels, whole or at a half, a quarter or an eighth."""

from __future__ import annotations

from typing import NamedTuple

import simplejpeg
import torch
from torch import Tensor

__all__ = ["JPEG_START", "Header", "decode_jpeg", "has_end", "is_whole", "read_header"]

JPEG_START, _END = b"\xff\xd8\xff", b"\xff\xd9"
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that tell the size
_APP1 = 0xE1  # EXIF among others


class Header(NamedTuple):
    """What stands before the pixels of a JPEG.

    Attributes:
        height: in pixels.
        width: in pixels.
        plain: greyscale or of three colours, without metadata that may say that it is to be turned.
    """

    height: int
    width: int
    plain: bool


def read_header(image: bytes) -> Header | None:
    """The header of a JPEG, from its markers alone; None where they make no sense.

    Args:
        image: the file.
    """
    place, plain = 2, True
    while place + 9 < len(image) and image[place] == 0xFF:
        marker = image[place + 1]
        if marker == 0xFF or marker in _ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in _FRAMES:
            height, width = (int.from_bytes(image[place + at : place + at + 2], "big") for at in (5, 7))
            return Header(height, width, plain and image[place + 9] in (1, 3))
        plain = plain and marker != _APP1
        place += 2 + int.from_bytes(image[place + 2 : place + 4], "big")
    return None


def decode_jpeg(image: bytes, header: Header, step: int = 1) -> Tensor | None:
    """Pixels uint8 (3, H, W) in which each stands for `step` x `step` of the file; None where another decoder is needed.

    Whole files give what torchvision and Pillow make of them, to the bit. The decoder scales while it goes from frequencies to
    pixels; only 1, 2, 4 and 8 have fast paths, and other eighths take longer than the whole.

    Args:
        image: a file that is whole.
        header: of it.
        step: 1, 2, 4 or 8.
    """
    if not header.plain:
        return None
    height, width = -(-header.height // step), -(-header.width // step)
    try:
        found = simplejpeg.decode_jpeg(image, min_height=height, min_width=width) if step > 1 else simplejpeg.decode_jpeg(image)
    except ValueError:  # a damaged file, or of a kind that this decoder does not know
        return None
    return torch.from_numpy(found).permute(2, 0, 1) if found.shape == (height, width, 3) else None  # (H, W, 3) -> (3, H, W)


def is_whole(image: bytes) -> bool:
    """Whether a JPEG has its end marker: libjpeg fills what is missing with grey and says nothing."""
    return image.rfind(_END, -4096) >= 0


def has_end(image: bytes) -> bool:
    """Whether an end marker stands anywhere after the pixels' beginning; cameras may write more behind it."""
    start = image.rfind(b"\xff\xda")
    return start >= 0 and image.find(_END, start) >= 0
