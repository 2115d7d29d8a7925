"""TIFF files that Pillow does not read: many bands, 16-bit colours, floats in several samples, one page a band."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from lightning_clip.data.pixel_values import PixelReading, shown_bands

__all__ = ["is_tiff", "read_tiff"]

_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF


def is_tiff(image: bytes) -> bool:
    """Whether encoded bytes begin as a TIFF does."""
    return image[:4] in _STARTS


def read_tiff(image: bytes, reading: PixelReading, check_size: Callable[[int, int], None]) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W), or (C, H, W) where other than one or three bands are named.

    Bands are the samples of a page, or its pages where each has one sample and bands are named.

    Args:
        image: a TIFF.
        reading: page, bands and window.
        check_size: called with width and height before pixels are unpacked.

    Raises:
        ValueError: no such page or band, a compression that tifffile has no codec for, or tifffile is not installed.
    """
    try:
        import tifffile
    except ImportError as error:
        raise ValueError('TIFF of a kind that needs a library (pip install "lightning-clip[tiff]")') from error
    with tifffile.TiffFile(io.BytesIO(image)) as file:
        pages = file.pages
        if reading.page >= len(pages):
            raise ValueError(f"image has {len(pages)} pages, not {reading.page + 1}")
        first: Any = pages[reading.page]
        check_size(int(first.imagewidth), int(first.imagelength))
        if reading.bands is not None and first.samplesperpixel == 1 and len(pages) >= max(reading.bands) > 1:
            values = np.concatenate([_bands(pages[band - 1]) for band in reading.bands])  # C x (1, H, W) -> (C, H, W)
            reading = PixelReading(reading.window, reading.percentiles, tuple(range(1, len(values) + 1)))
        else:
            values = _bands(first)
    return shown_bands(values, reading, _range(values))


def _bands(page: Any) -> np.ndarray:
    """The samples of a page (N, H, W), whichever way they lie in the file."""
    values: np.ndarray = page.asarray()
    if values.ndim == 2:
        return values[None]
    if values.ndim != 3:
        raise ValueError(f"TIFF page of {values.ndim} dimensions")
    return values if page.planarconfig == 2 else np.moveaxis(values, -1, 0)  # separate planes come first already


def _range(values: np.ndarray) -> tuple[float, float]:
    """What is black and white by convention in values of this kind."""
    if values.dtype.kind in "iu":
        return (0.0, 255.0) if values.dtype.itemsize == 1 else (0.0, 65535.0)
    within = np.nanmin(values) >= 0 and np.nanmax(values) <= 1
    return (0.0, 1.0) if within else (0.0, 255.0)
