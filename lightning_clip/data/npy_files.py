"""Arrays in `.npy` files, read and written; nothing is ever unpickled."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib import format as npy
from torch import Tensor

__all__ = ["npy_bytes", "read_npy"]

_HEADERS: dict[tuple[int, int], Callable[[io.BytesIO], tuple[Any, ...]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
}


def read_npy(content: bytes) -> Any:
    """The array of a `.npy` file, a single value as a Python number, text or flag; nothing in it is ever unpickled.

    Raises:
        ValueError: pickled, cut off, or no such file.

    Examples:
        >>> read_npy(npy_bytes([1.0, 2.0])), read_npy(npy_bytes(7))
        (array([1., 2.]), 7)
    """
    stream = io.BytesIO(content)
    try:
        shape, fortran, dtype = _HEADERS[npy.read_magic(stream)](stream)
    except (ValueError, KeyError, EOFError, TypeError, SyntaxError) as error:
        raise ValueError("is no .npy file") from error
    if dtype.hasobject:
        raise ValueError("is a pickled .npy file: save it with allow_pickle=False")
    start, count = stream.tell(), int(np.prod(shape, dtype=object)) if shape else 1
    if min(shape, default=0) < 0 or len(content) - start != count * dtype.itemsize:
        raise ValueError("is a .npy file of another length than it says")
    flat = np.frombuffer(content, dtype, count, start).astype(dtype.newbyteorder("="))  # a copy, which may be written to
    array = flat.reshape(shape, order="F" if fortran else "C")
    return array if shape else array.item()


def npy_bytes(value: Any) -> bytes:
    """A number, text, list, array or tensor as a `.npy` file.

    Raises:
        ValueError: what is no array of numbers, texts or flags.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype.itemsize == 2 and value.is_floating_point() else value).numpy()
    stream = io.BytesIO()
    try:
        np.save(stream, np.asarray(value), allow_pickle=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"is no array of numbers ({type(value).__name__})") from error
    return stream.getvalue()
