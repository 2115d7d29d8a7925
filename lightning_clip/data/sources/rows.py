"""Rows of a table file, as mappings, kept in a few flat buffers."""

from __future__ import annotations

import json
import logging
import pickle
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.flickr_tables import flickr_rows
from lightning_clip.data.sources.json_tables import read_json
from lightning_clip.data.sources.separated import SeparatedValues, delimiter_of
from lightning_clip.data.text_files import open_text

__all__ = ["TABLE_EXTENSIONS", "Rows", "TableForm", "read_tables"]

log = logging.getLogger(__name__)
TABLE_EXTENSIONS = (".jsonl", ".csv", ".tsv", ".parquet", ".json", ".txt", ".token")
Row = dict[str, Any]


class Rows(Sequence[Row]):
    """Rows as bytes: workers that touch Python objects copy their pages, and a table of millions would be held many times.

    Args:
        rows: mappings of plain types.

    Attributes:
        lines: numbers of the lines or entries (N,) they stand on, from 1; empty for rows that were made.
        files: the files they come from, and how many rows there are up to the end of each.

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

        self.lines = np.empty(0, dtype=np.int64)
        self.files: tuple[tuple[str, int], ...] = ()

    def place(self, index: int) -> str:
        """Where a row stands, such as "line 17 of captions.csv"."""
        if index >= len(self.lines):
            return f"row {index}"
        file = next(name for name, end in self.files if index < end)
        return f"{'row' if file.endswith('.parquet') else 'line'} {self.lines[index]} of {file}"

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


class TableForm(NamedTuple):
    """How the text of a table is to be read.

    Attributes:
        delimiter: of csv and tsv files; None for a tab in tsv, and in csv a comma, or what the header has instead.
        header: names of the columns of a csv or tsv file whose first line is a row already.
        max_bad_rows: share of lines that may be no rows.
    """

    delimiter: str | None = None
    header: Sequence[str] | None = None
    max_bad_rows: float = 0.01


def read_tables(paths: Sequence[Path], form: TableForm) -> Rows:
    """Rows of table files, one after the other; lines that are none are counted and omitted.

    Args:
        paths: the files.
        form: how they are written.

    Raises:
        InputError: unknown extension, too many bad lines, or no row.
    """
    bad: list[tuple[Path, int, str]] = []
    lines = array("q")
    counts: list[int] = []

    def good() -> Iterator[Row]:
        for path in paths:
            for line, row in _found(path, form):
                if isinstance(row, str):
                    bad.append((path, line, row))
                else:
                    lines.append(line)
                    yield row
            counts.append(len(lines))

    rows = Rows(good())
    rows.lines, rows.files = np.array(lines, dtype=np.int64), tuple(zip(map(str, paths), counts, strict=True))
    shown = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    if bad:
        path, line, reason = bad[0]
        if len(bad) > form.max_bad_rows * (len(rows) + len(bad)):
            raise InputError(
                f"line {line} of {str(path)!r} {reason}, and {len(bad)} of {len(rows) + len(bad)} lines are bad, more than "
                f"max_bad_rows {form.max_bad_rows:g} allows: fix or remove them"
            )
        log.warning("%s: omitted %d bad lines, the first is line %d: it %s", path, len(bad), line, reason)
    if not rows:
        raise InputError(f"caption table {shown!r} is empty: it needs one row per image")
    return rows


def _found(path: Path, form: TableForm) -> Iterator[tuple[int, Row | str]]:
    """Rows and bad lines of one file, by its ending."""
    if path.suffix not in TABLE_EXTENSIONS:
        raise InputError(f"table {str(path)!r} must end in one of {', '.join(TABLE_EXTENSIONS)}")
    if path.suffix in _READERS:
        if form.header is not None:
            raise InputError(f"header {list(form.header)} is for csv and tsv files, not {path.suffix}: omit it")
        return _READERS[path.suffix](path)
    if path.suffix in (".txt", ".token") and (rows := flickr_rows(path)) is not None:
        return rows
    return _read_separated(path, form.delimiter, form.header)


def _read_jsonl(path: Path) -> Iterator[tuple[int, Row | str]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                yield number, f"is no JSON ({error.msg})"
                continue
            except (ValueError, RecursionError):  # a number of thousands of digits, brackets in brackets
                yield number, "is no JSON that can be read (nested too deep, or a number too long)"
                continue
            if not isinstance(row, dict):
                yield number, "is no JSON object: it needs an image name and a caption"
            else:
                yield number, _NO_UTF8 if _foreign(line) else row


def _read_separated(path: Path, delimiter: str | None, header: Sequence[str] | None) -> Iterator[tuple[int, Row | str]]:
    names = None if header is None else list(header)
    for record in SeparatedValues(path, delimiter or _delimiter(path)):
        if record.fault is not None:
            yield record.line, record.fault
        elif names is None:
            names = [name.strip() for name in record.fields] or None
        elif record.fields and len(record.fields) != len(names):
            yield record.line, f"has {len(record.fields)} fields, the header {len(names)}"
        elif record.fields:
            foreign = any(not field.isascii() and _foreign(field) for field in record.fields)
            yield record.line, _NO_UTF8 if foreign else dict(zip(names, record.fields, strict=False))


def _delimiter(path: Path) -> str:
    """A tab in tsv files; in csv files a comma, or what stands in the first line where that has no comma."""
    if path.suffix == ".tsv":
        return "\t"
    with open_text(path) as lines:
        first = lines.readline(1 << 16)
    found = "," if "," in first else delimiter_of(first) or ","
    if found != ",":
        log.info("%s: columns are delimited by %r, as in its first line", path, found)
    return found


def _read_parquet(path: Path) -> Iterator[tuple[int, Row | str]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f'{str(path)!r} needs pyarrow: pip install "lightning-clip[parquet]"') from error
    try:
        batches = pyarrow.parquet.ParquetFile(path).iter_batches()
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except Exception as error:  # pyarrow raises of every kind on damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"table {str(path)!r} is no parquet file that can be read ({reason}): write it again") from error


_NO_UTF8 = "is not UTF-8 text: save the table as UTF-8"
_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row | str]]]] = {
    ".jsonl": _read_jsonl,
    ".json": read_json,
    ".parquet": _read_parquet,
}


def _foreign(text: str) -> bool:
    """Whether bytes were no UTF-8; they came in as lone surrogates."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)
