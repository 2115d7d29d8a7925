"""Rows of a table file, as mappings, kept in a few flat buffers."""

from __future__ import annotations

import csv
import json
import logging
import pickle
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from lightning_clip.core.errors import InputError

__all__ = ["TABLE_EXTENSIONS", "Rows", "read_table"]

log = logging.getLogger(__name__)
TABLE_EXTENSIONS = (".jsonl", ".csv", ".tsv", ".parquet")
Row = dict[str, Any]


class _Bad(NamedTuple):
    """A line that is no row, and why."""

    line: int
    reason: str


class Rows(Sequence[Row]):
    """Rows as bytes: workers that touch Python objects copy their pages, and a table of millions would be held many times.

    Args:
        rows: mappings of plain types.

    Examples:
        >>> Rows([{"image": "a.jpg"}, {"image": "b.jpg"}])[1]
        {'image': 'b.jpg'}
    """

    def __init__(self, rows: Iterator[Row] | Sequence[Row]) -> None:
        content, ends = bytearray(), array("q", [0])
        for row in rows:
            content += pickle.dumps(row, protocol=5)
            ends.append(len(content))
        self._content, self._ends = np.frombuffer(bytes(content), dtype=np.uint8), np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...

    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...

    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        # The bytes are our own, written a moment ago in this process or its parent.
        row: Row = pickle.loads(self._content[self._ends[index] : self._ends[index + 1]].data)
        return row


def read_table(path: Path, delimiter: str | None = None, max_bad_rows: float = 0.01) -> Rows:
    """Rows of a jsonl, csv, tsv or parquet file; lines that are none are counted and omitted.

    Args:
        path: the file.
        delimiter: of csv files; None for a comma, or a tab in tsv.
        max_bad_rows: share of lines that may be no rows.

    Raises:
        InputError: unknown extension, too many bad lines, or no row.
    """
    if path.suffix not in TABLE_EXTENSIONS:
        raise InputError(f"table {str(path)!r} must end in one of {', '.join(TABLE_EXTENSIONS)}")
    bad: list[_Bad] = []

    def good() -> Iterator[Row]:
        for found in _READERS[path.suffix](path, delimiter):
            if isinstance(found, _Bad):
                bad.append(found)
            else:
                yield found

    rows = Rows(good())
    if len(bad) > max_bad_rows * (len(rows) + len(bad)):
        raise InputError(
            f"line {bad[0].line} of {str(path)!r} {bad[0].reason}, and {len(bad)} of {len(rows) + len(bad)} lines are bad, "
            f"more than max_bad_rows {max_bad_rows:g} allows: fix or remove them"
        )
    if bad:
        log.warning("%s: omitted %d bad lines, the first is line %d: it %s", path, len(bad), bad[0].line, bad[0].reason)
    if not rows:
        raise InputError(f"caption table {str(path)!r} is empty: it needs one row per image")
    return rows


def _read_jsonl(path: Path, delimiter: str | None) -> Iterator[Row | _Bad]:
    with path.open(encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield _Bad(number, f"is no JSON ({error.msg})")
                continue
            if not isinstance(row, dict):
                yield _Bad(number, "is no JSON object: it needs an image name and a caption")
            else:
                yield _Bad(number, _NO_UTF8) if _foreign(line) else row


def _read_csv(path: Path, delimiter: str | None) -> Iterator[Row | _Bad]:
    csv.field_size_limit(1 << 28)  # base64 pictures in a cell
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, delimiter=delimiter or ("\t" if path.suffix == ".tsv" else ","))
        head: list[str] | None = None
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _Bad(reader.line_num, f"is no CSV ({error})")
                continue
            if head is None:
                head = fields
            elif fields and len(fields) != len(head):
                yield _Bad(reader.line_num, f"has {len(fields)} fields, the header {len(head)}")
            elif fields:
                yield _Bad(reader.line_num, _NO_UTF8) if any(map(_foreign, fields)) else dict(zip(head, fields, strict=True))


def _read_parquet(path: Path, delimiter: str | None) -> Iterator[Row | _Bad]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{str(path)!r} needs pyarrow: pip install "lightning-clip[parquet]"') from error
    for batch in pyarrow.parquet.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


_NO_UTF8 = "is not UTF-8 text: save the table as UTF-8"
_READERS: dict[str, Callable[[Path, str | None], Iterator[Row | _Bad]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _foreign(text: str) -> bool:
    """Whether bytes were no UTF-8; they came in as lone surrogates."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)
