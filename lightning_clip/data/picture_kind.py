"""What kind of picture encoded bytes hold: colours or grey, how many bits and bands, and between which values."""

from __future__ import annotations

import io
import warnings
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from lightning_clip.data.dicom import is_dicom
from lightning_clip.data.tiff import is_tiff

__all__ = ["PictureKind", "picture_kind"]

_EDGES = (0.5, 99.5)  # percentiles that stand for darkest and brightest: single pixels may be anything


class PictureKind(NamedTuple):
    """What stands in a file.

    Attributes:
        form: "colour", "grey", "dicom", or "bands" for a TIFF of other than one or three.
        bands: samples of a pixel.
        eight_bits: whether values are 0 to 255.
        low, high: nearly the least and largest value.
    """

    form: str
    bands: int = 3
    eight_bits: bool = True
    low: float = 0.0
    high: float = 255.0

    @property
    def named(self) -> str:
        """In words, such as "grey of more than 8 bits"."""
        name = f"{self.bands} bands" if self.form == "bands" else "DICOM" if self.form == "dicom" else self.form
        return name if self.eight_bits or self.form == "dicom" else f"{name} of more than 8 bits"


def picture_kind(image: bytes) -> PictureKind:
    """Looks at a picture, without the rules by which values become 8 bits.

    Args:
        image: encoded bytes.

    Raises:
        ValueError: no picture.

    Examples:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (4, 4)).save(buffer, "PNG")
        >>> picture_kind(buffer.getvalue()).form
        'grey'
    """
    if is_dicom(image):
        return PictureKind("dicom", 1, eight_bits=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(image)) as opened:
                if opened.mode.startswith("I") or opened.mode == "F":
                    return _kind_of(np.asarray(opened.convert("F"))[None])
                if opened.mode in ("1", "L", "LA"):
                    return PictureKind("grey", 1)
                pixels = np.asarray(opened.convert("RGB"), dtype=np.int16)
    except UnidentifiedImageError as error:
        if is_tiff(image):
            return _kind_of_tiff(image)
        raise ValueError("not an image") from error
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("image cannot be read") from error
    spread = np.abs(pixels - pixels[..., :1]).mean()  # of JPEGs saved in colour, rounding leaves a little
    return PictureKind("grey" if spread < 2 else "colour", 1 if spread < 2 else 3)


def _kind_of_tiff(image: bytes) -> PictureKind:
    try:
        import tifffile

        with tifffile.TiffFile(io.BytesIO(image)) as file:
            page: Any = file.pages[0]
            values = np.asarray(page.asarray())
            bands = int(page.samplesperpixel)
    except Exception as error:  # tifffile and its codecs raise as they like
        raise ValueError("TIFF that cannot be read") from error
    return _kind_of(values, bands)


def _kind_of(values: np.ndarray, bands: int = 1) -> PictureKind:
    finite = values[np.isfinite(values)]
    low, high = (float(edge) for edge in np.percentile(finite, _EDGES)) if finite.size else (0.0, 1.0)
    form = {1: "grey", 3: "colour"}.get(bands, "bands")
    return PictureKind(form, bands, values.dtype == np.uint8, low, high)
