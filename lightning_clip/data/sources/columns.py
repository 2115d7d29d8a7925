"""Cells of a row: captions with their weights, and images as names, bytes or base64."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["CaptionColumns", "caption_columns", "captions_of", "cell", "image_of", "texts"]

CaptionColumns = dict[str, float]
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}")  # no path is that long without a dot


def cell(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a field in a column that holds JSON: "meta.caption"; None where there is none."""
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                return None
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def caption_columns(value: str | Sequence[str] | Mapping[str, float] | None) -> CaptionColumns:
    """One column, several, or several with weights -> column: weight.

    Raises:
        InputError: a weight that is not positive.
    """
    if value is None:
        return {}
    columns = (
        {value: 1.0} if isinstance(value, str) else dict(value) if isinstance(value, Mapping) else dict.fromkeys(value, 1.0)
    )
    for column, weight in columns.items():
        if not weight > 0:
            raise InputError(f"caption_column gives {column!r} the weight {weight}: weights must be above 0")
    return columns


def texts(value: Any) -> tuple[str, ...]:
    """One text or a list of them, without the empty ones."""
    several = value if isinstance(value, list | tuple) else [value]
    return tuple(str(text).strip() for text in several if text is not None and str(text).strip())


def captions_of(row: Mapping[str, Any], columns: CaptionColumns) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """All captions of a row, and their weights if columns differ; a column's weight is shared out among its captions."""
    found: list[str] = []
    weights: list[float] = []
    for column, weight in columns.items():
        own = texts(cell(row, column))
        found += own
        weights += [weight / max(1, len(own))] * len(own)
    return tuple(found), tuple(weights) if len(set(columns.values())) > 1 else None


def image_of(value: Any) -> bytes | str:
    """The bytes that a cell holds, or the name by which they are found.

    Raises:
        ValueError: nothing there, or base64 that is none.
    """
    if isinstance(value, Mapping):  # as Hugging Face datasets and their parquet files have it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    name = "" if value is None else str(value)
    if not name:
        raise ValueError("no image in the row")
    coded = name.partition(";base64,")[2] if name.startswith("data:") else name
    if coded is name and not _BASE64.fullmatch(name):
        return name
    try:
        return base64.b64decode(coded.replace("-", "+").replace("_", "/") + "=" * (-len(coded) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError("image is no base64") from error
