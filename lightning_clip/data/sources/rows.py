"""Rows of a table file: a path arrives, one mapping per row leaves."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.errors import InputError

__all__ = ["TABLE_EXTENSIONS", "read_table"]


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a jsonl, csv, tsv or parquet file.

    Raises:
        InputError: unknown extension, a line that does not parse, or no row.
    """
    if path.suffix not in _READERS:
        raise InputError(f"table {str(path)!r} must end in one of {', '.join(_READERS)}")
    rows = _READERS[path.suffix](path)
    if not rows:
        raise InputError(f"caption table {str(path)!r} is empty: it needs one row per image")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} of {str(path)!r} is no JSON ({error}): mend or remove it") from error
            if not isinstance(row, dict):
                raise InputError(f"line {number} of {str(path)!r} is no JSON object: it needs an image name and a caption")
            rows.append(row)
    return rows


def _read_csv(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines, delimiter=delimiter))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
}

TABLE_EXTENSIONS = tuple(_READERS)
