"""Pictures for tests: made here, encoded as asked."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

__all__ = ["encoded", "gradient"]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The file that PIL writes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """Red rises to the right, green downwards, blue runs across."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=-1).astype(np.uint8))
