"""The setting `columns` of tables and datasets: which further columns there are, and their values in a row."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.column_files import COLUMN_EXTENSIONS, ColumnFile, Columns
from lightning_clip.data.sources.columns import cell

__all__ = ["ColumnSetting", "ValueColumns"]

ColumnSetting = str | Sequence[str] | Mapping[str, str | Sequence[str]] | None


class ValueColumns:
    """Which further columns a table's samples have, and how their cells are read.

    A cell is a number, a flag, a list of these, text that says one of them, text that names a `.npy`, `.wav` or video file,
    the bytes of such a file, or, where the column's first cell is no number, text. Numbers of one column are all integers or
    all floats.

    Args:
        setting: one column, several, or {new name: column or list of columns, which are stacked}.
        read: name of a file -> its bytes.

    Raises:
        InputError: a name that is used twice, or a name without a column.

    Examples:
        >>> columns = ValueColumns({"gps": ["lat", "lon"]}, read=lambda name: b"")
        >>> columns.values({"lat": "48.9", "lon": "2.4"})["gps"]
        array([48.9,  2.4])
    """

    def __init__(self, setting: ColumnSetting, read: Callable[[str], bytes]) -> None:
        self._parts, self._read = _parts(setting), read
        self._texts: set[str] = set()
        self._floats: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._parts)

    def cells(self) -> list[str]:
        """Names of all table columns that are read."""
        return [column for columns, _ in self._parts.values() for column in columns]

    def learn(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Finds out which columns hold text, by their first cell, and which floats, by all cells."""
        known: set[str] = set()
        for row in rows:
            for column in self.cells():
                value = cell(row, column)
                if _is_empty(value):
                    continue
                if column not in known and isinstance(value, str) and not _file(value) and _number(value) is None:
                    self._texts.add(column)
                known.add(column)
                if column not in self._texts and column not in self._floats and _has_float(value):
                    self._floats.add(column)

    def values(self, row: Mapping[str, Any]) -> Columns:
        """The columns of a row; those with an empty cell are absent.

        Raises:
            ValueError: a cell that is no number, in a column of numbers; the message names the column.
        """
        found: dict[str, Any] = {}
        for name, (columns, stacked) in self._parts.items():
            parts = [self._value(column, cell(row, column)) for column in columns]
            if any(part is None for part in parts):
                continue
            found[name] = _stacked(name, parts) if stacked else parts[0]
        return Columns(found)

    def _value(self, column: str, value: Any) -> Any:
        if _is_empty(value):
            return None
        if isinstance(value, Mapping) and ("bytes" in value or "path" in value):  # as datasets and their parquet files have it
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return ColumnFile(_kind_of(column, bytes(value)), partial(bytes, value))
        if isinstance(value, str):
            if extension := _file(value):
                return ColumnFile(extension, partial(self._read, value))
            if column in self._texts:
                return value
            if (number := _number(value)) is None:
                raise ValueError(f"column {column!r} is no number")
            value = number
        return _array(column, value, column in self._floats)


def _parts(setting: ColumnSetting) -> dict[str, tuple[list[str], bool]]:
    """New name -> table columns, and whether they are stacked."""
    if isinstance(setting, str):
        setting = [setting]
    if not isinstance(setting, Mapping):
        if setting is not None and not isinstance(setting, list | tuple):
            raise InputError(f"columns {setting!r} must be a name, a list of names or a mapping of names to columns")
        names = list(setting or ())
        setting = {name: name for name in names}
        if len(setting) < len(names):
            raise InputError(f"columns {names} names a column twice: name each once")
    found = {
        str(name): ([column], False) if isinstance(column, str) else (list(column), True) for name, column in setting.items()
    }
    for name, (columns, _) in found.items():
        if not columns or name in ("image", "text", ""):
            raise InputError(
                f"columns gives {name!r} the columns {columns}: give at least one, and another name than image and text, which "
                "image_column and caption_column name"
            )
    return found


def _is_empty(value: Any) -> bool:
    """Whether a cell has no value; NaN alone in a cell is how pandas writes that."""
    if isinstance(value, str):
        return value.strip().lower() in ("", "nan")
    return value is None or (isinstance(value, float) and math.isnan(value))


def _file(text: str) -> str | None:
    """The extension of a cell that names a file."""
    extension = text.rpartition(".")[2].lower()
    return extension if "." in text and extension in COLUMN_EXTENSIONS else None


def _kind_of(column: str, content: bytes) -> str:
    if content.startswith(b"\x93NUMPY"):
        return "npy"
    if content.startswith(b"RIFF"):
        return "avi" if content[8:12] == b"AVI " else "wav"
    if content[4:8] == b"ftyp":
        return "mp4"
    if content.startswith(b"\x1aE\xdf\xa3"):
        return "webm"
    raise ValueError(f"column {column!r} has bytes that are neither .npy nor .wav nor a video")


def _number(text: str) -> Any:
    """The number, flag or list that a text says, None if it says none."""
    text = text.strip()
    for reader in (json.loads, ast.literal_eval, float):  # JSON; (1, 2) and True as Python writes them; 1. and inf
        try:
            value = reader(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, int | float | list | tuple):
            return value
    return None


def _has_float(value: Any) -> bool:
    if isinstance(value, str):
        value = None if _file(value) else _number(value)
    if isinstance(value, list | tuple):
        return any(_has_float(part) for part in value)
    return isinstance(value, float | np.floating)


def _array(column: str, value: Any, floats: bool) -> Any:
    """Lists as arrays, if they are regular; single numbers as they are."""
    if isinstance(value, int | float):
        return float(value) if floats else value
    try:
        array = np.asarray(value)
    except ValueError:
        return value  # of uneven lengths, which a tower's collate() may know to pad
    if array.dtype.kind in "iuf" and floats:
        array = array.astype(np.float64) if array.dtype.kind != "f" else array
    if array.dtype.hasobject:
        raise ValueError(f"column {column!r} is no number")
    return array


def _stacked(name: str, parts: list[Any]) -> Any:
    """Several cells as one value (K, ...)."""
    if any(isinstance(part, ColumnFile) for part in parts):
        raise ValueError(f"column {name!r} stacks files: give each its own column")
    try:
        return np.asarray(parts)
    except ValueError as error:
        raise ValueError(f"column {name!r} stacks values of different shapes") from error
