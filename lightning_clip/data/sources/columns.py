"""Cells of a row: captions with their weights, and images as names, bytes or base64."""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["CaptionColumns", "caption_columns", "captions_of", "cell", "image_of", "texts"]

CaptionColumns = dict[str, float]
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}")  # no path is that long without a dot


def cell(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a field in a column that holds JSON; None where there is none.

    A path leads through lists, too: "sentences.raw" is the list of these fields.

    Args:
        row: column -> value.
        column: its name, or a path such as "meta.caption".

    Examples:
        >>> cell({"sentences": [{"raw": "a dog"}, {"raw": "a cat"}]}, "sentences.raw")
        ['a dog', 'a cat']
    """
    if column in row:
        return row[column]
    value: Any = row
    for name in column.split("."):
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if isinstance(value, list | tuple):
            value = [part[name] for part in value if isinstance(part, Mapping) and name in part] or None
        else:
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


def texts(value: Any, column: str = "caption") -> tuple[str, ...]:
    """One text or a list of them, without the empty ones; a list may be written out, as JSON or as Python prints it.

    Args:
        value: of a cell; NaN is how pandas writes that there is none.
        column: for the error.

    Raises:
        InputError: a mapping, or a list of mappings, of which one field would be the text.

    Examples:
        >>> texts("['a dog', 'b']"), texts(float("nan")), texts("[sic] a dog")
        (('a dog', 'b'), (), ('[sic] a dog',))
    """
    if isinstance(value, str):  # most cells of most tables
        text = value.strip()
        written = _written_list(text) if text.startswith("[") else None
        if not written:
            return (text,) if text else ()
        value = written
    found = []
    for text in value if isinstance(value, list | tuple) else [value]:
        if isinstance(text, Mapping):
            fields = ", ".join(f"{column}.{name}" for name in list(text)[:6])
            raise InputError(f"column {column!r} holds mappings, not texts: name a field of them as the column ({fields})")
        if text is None or (isinstance(text, float) and math.isnan(text)):
            continue
        if stripped := str(text).strip():
            found.append(stripped)
    return tuple(found)


def _written_list(text: str) -> list[str] | None:
    """The texts of a list that was written into a cell: '["a", "b"]', "['a', 'b']", or numpy's "['a' 'b']"; else None."""
    if not text.endswith("]"):
        return None
    try:
        found = ast.literal_eval(text)
        if not isinstance(found, list) or not all(isinstance(part, str) for part in found):
            return None
        # Python joins texts that stand side by side, as numpy prints them: each is taken by itself.
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        return [ast.literal_eval(token.string) for token in tokens if token.type == tokenize.STRING]
    except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
        pass
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return [part for part in read if part is not None] if all(isinstance(part, str | None) for part in read) else None


def captions_of(row: Mapping[str, Any], columns: CaptionColumns) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """All captions of a row, and their weights if columns differ; a column's weight is shared out among its captions."""
    if len(columns) == 1:
        (column,) = columns
        return texts(cell(row, column), column), None
    found: list[str] = []
    weights: list[float] = []
    for column, weight in columns.items():
        own = texts(cell(row, column), column)
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
