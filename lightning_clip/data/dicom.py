"""DICOM: pixels in their physical unit, through the file's own window or one that is given, -> 8 bits."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_clip.data.pixel_values import PixelReading, windowed

__all__ = ["is_dicom", "own_window", "read_dicom"]


def is_dicom(image: bytes) -> bool:
    """Whether encoded bytes begin as a DICOM file does: 128 bytes of anything, then its name."""
    return image[128:132] == b"DICM"


def read_dicom(image: bytes, reading: PixelReading, check_size: Callable[[int, int], None]) -> Tensor:
    """Encoded bytes -> uint8 (3, H, W).

    Stored values become those of their unit by slope and intercept (Hounsfield units in CT). White and black are the window
    or the percentiles that are asked for, else the file's window, else its least and largest value; MONOCHROME1 is inverted.

    Args:
        image: a DICOM file.
        reading: window in the unit, percentiles, and the page of several frames.
        check_size: called with width and height before pixels are unpacked.

    Raises:
        ValueError: no pixels, no such frame, a compression that pydicom has no codec for, or pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut
        from pydicom.pixels.utils import pixel_array
    except ImportError as error:
        raise ValueError('DICOM needs a library (pip install "lightning-clip[dicom]")') from error
    try:
        dataset = pydicom.dcmread(io.BytesIO(image))
        if "PixelData" not in dataset:
            raise ValueError("DICOM without pixels")
        check_size(int(dataset.Columns), int(dataset.Rows))
        frames = int(dataset.get("NumberOfFrames", 1) or 1)
        if reading.page >= frames:
            raise ValueError(f"image has {frames} pages, not {reading.page + 1}")
        stored = pixel_array(dataset, index=reading.page)  # (H, W), or (H, W, 3) in RGB
        if stored.ndim == 3 or dataset.PhotometricInterpretation == "PALETTE COLOR":
            return _coloured(dataset, stored)
        values = np.asarray(apply_modality_lut(stored, dataset), dtype=np.float32)[None]  # (H, W) -> (1, H, W)
    except ValueError:
        raise
    except Exception as error:  # pydicom and its codecs raise as they like
        raise ValueError(f"undecodable DICOM ({type(error).__name__})") from error
    grey = windowed(values, reading, own_window(dataset) or (float(values.min()), float(values.max())))
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        grey = 255 - grey
    return grey.expand(3, -1, -1).contiguous()


def own_window(dataset: Any) -> tuple[float, float] | None:
    """The first window of a DICOM data set as its darkest and brightest value, None where it has none.

    The function is the standard's (PS3.3, C.11.2.1.2): of width w around c it reaches from c - 0.5 - (w - 1) / 2 to
    c - 0.5 + (w - 1) / 2, or from c - w / 2 to c + w / 2 where it is LINEAR_EXACT; SIGMOID is taken for the latter.
    """
    centre, width = (_first(dataset.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None
    if dataset.get("VOILUTFunction", "LINEAR") in ("LINEAR", "", None) and width > 1:
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    return centre - width / 2, centre + width / 2


def _first(value: Any) -> float | None:
    """A number, or the first of several."""
    if value is None or value == "":
        return None
    several = value if not isinstance(value, str) and hasattr(value, "__getitem__") else [value]
    return float(several[0]) if len(several) else None


def _coloured(dataset: Any, stored: np.ndarray) -> Tensor:
    """Pixels in RGB or with a palette -> uint8 (3, H, W)."""
    from pydicom.pixels.processing import apply_color_lut

    if stored.ndim == 2:
        stored = apply_color_lut(stored, dataset)  # (H, W) -> (H, W, 3), 16 bits where the palette has them
    whole = float(np.iinfo(stored.dtype).max)
    return torch.from_numpy((np.moveaxis(stored, -1, 0) * (255.0 / whole)).round().astype(np.uint8))[:3].contiguous()
