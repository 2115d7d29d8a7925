"""Values of more than 8 bits and of several bands -> 8 bits: windows, percentiles, and which bands and page are shown."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = ["CONVENTION", "PixelReading", "shown_bands", "windowed"]

_OF_BANDS = (2.0, 98.0)  # percentiles where no window is given: values of many bands have no common range


@dataclass(frozen=True)
class PixelReading:
    """What is shown of an image file that holds more than three times 8 bits.

    Args:
        window: darkest and brightest value.
        percentiles: shares in percent that become black and white, in each image and band by itself.
        bands: which bands are read, from 1 as GeoTIFF counts them.
        page: of files with several pages or frames, from 0.

    Raises:
        InputError: numbers that do not rise, a band below 1, a page below 0, or a window and percentiles at once.
    """

    window: tuple[float, float] | None = None
    percentiles: tuple[float, float] | None = None
    bands: tuple[int, ...] | None = None
    page: int = 0

    def __post_init__(self) -> None:
        if self.window is not None and not self.window[0] < self.window[1]:
            raise InputError(f"window {self.window} must be two rising numbers, such as [0, 4095]")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise InputError(f"percentiles {self.percentiles} must be two rising numbers in 0..100, such as [1, 99]")
        if self.window is not None and self.percentiles is not None:
            raise InputError(f"window {self.window} and percentiles {self.percentiles} say the same: omit one of them")
        if self.bands is not None and (not self.bands or not all(isinstance(b, int) and b >= 1 for b in self.bands)):
            raise InputError(f"bands {list(self.bands)} must be whole numbers from 1, such as [4, 3, 2]")
        if self.page < 0:
            raise InputError(f"page {self.page} must be a whole number from 0")


CONVENTION = PixelReading()  # 0 to 65,535 for integers, 0 to 1 for floats within it, a DICOM's own window


def windowed(values: np.ndarray, reading: PixelReading, default: tuple[float, float]) -> Tensor:
    """Values (C, H, W) of any kind -> uint8 (C, H, W).

    Args:
        values: of bands or a grey image; what is not finite becomes black.
        reading: the window, or the percentiles of each band.
        default: the window where neither is given.

    Examples:
        >>> windowed(np.array([[[0, 1000, 4095, 9000]]]), PixelReading(window=(0, 4095)), (0, 65535)).tolist()
        [[[0, 62, 255, 255]]]
    """
    own = values.astype(np.float32)
    finite = np.isfinite(own)
    if reading.percentiles is None:
        low, high = (np.full((len(own), 1, 1), edge, np.float32) for edge in (reading.window or default))
    else:
        edges = [_edges(band[good], reading.percentiles) for band, good in zip(own, finite, strict=True)]
        low, high = (np.array(side, np.float32).reshape(-1, 1, 1) for side in zip(*edges, strict=True))
    own = np.where(finite, own, low)
    scaled = (own - low) * (255.0 / np.where(high > low, high - low, 1.0))  # (C, H, W)
    return torch.from_numpy(scaled.clip(0, 255).astype(np.uint8))


def shown_bands(values: np.ndarray, reading: PixelReading, default: tuple[float, float]) -> Tensor:
    """All bands of an image (N, H, W) -> uint8 of those that are read: (3, H, W) for one or three of them, else (C, H, W).

    Where no bands are named, one or three are what they are, and of others the first three are shown, or the first of two,
    between their percentiles 2 and 98.

    Args:
        values: of all bands.
        reading: which of them, and their window.
        default: the window of one or three bands where none is given.

    Raises:
        ValueError: a band that the image does not have.
    """
    count = len(values)
    if reading.bands is not None:
        if max(reading.bands) > count:
            raise ValueError(f"image has {count} bands, not {max(reading.bands)}")
        values = values[[band - 1 for band in reading.bands]]  # (N, H, W) -> (C, H, W)
    elif count not in (1, 3):
        values = values[: 3 if count > 3 else 1]
    if count not in (1, 3) and reading.window is None and reading.percentiles is None:
        reading = PixelReading(percentiles=_OF_BANDS)
    found = windowed(values, reading, default)
    return found.expand(3, -1, -1).contiguous() if len(found) == 1 else found


def _edges(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    """The two values at these percentiles; a band without any finite value is black."""
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, percentiles)
    return float(low), float(high)
