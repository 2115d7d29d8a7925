"""Rows of table files of every kind."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.flickr_tables import flickr_rows
from lightning_clip.data.sources.json_lines import NO_UTF8, Faults, are_plain, is_foreign, read_json_lines, rows_of_lines
from lightning_clip.data.sources.json_tables import read_json
from lightning_clip.data.sources.parquet_tables import parquet_columns, read_parquet
from lightning_clip.data.sources.row_store import Row, Rows
from lightning_clip.data.sources.separated import SeparatedValues, delimiter_of
from lightning_clip.data.sources.table_cache import TableCache, shown
from lightning_clip.data.text_files import open_text

__all__ = ["TABLE_EXTENSIONS", "TableForm", "read_tables"]

log = logging.getLogger(__name__)
TABLE_EXTENSIONS = (".jsonl", ".csv", ".tsv", ".parquet", ".json", ".txt", ".token")


class TableForm(NamedTuple):
    """How the text of a table is to be read.

    Attributes:
        delimiter: of csv and tsv files; None for a tab in tsv, and in csv a comma, or what the header has instead.
        header: names of the columns of a csv or tsv file whose first line is a row already.
        max_bad_rows: share of lines that may be no rows.
        columns: which columns of a parquet file are asked for, in any case of letters; None reads all.
    """

    delimiter: str | None = None
    header: Sequence[str] | None = None
    max_bad_rows: float = 0.01
    columns: Collection[str] | None = None


def read_tables(paths: Sequence[Path], form: TableForm) -> Rows:
    """Rows of table files, one after the other; lines that are none are counted and omitted.

    Args:
        paths: the files.
        form: how they are written.

    Raises:
        InputError: unknown extension, too many bad lines, or no row.
    """
    faults, cache = Faults(), TableCache(paths)
    rows = rows_of_lines(paths, cache, faults) if form.header is None and are_plain(paths) else _collected(paths, form, faults)
    rows.cache = cache
    shown_name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    if faults.first is not None:
        path, line, reason = faults.first
        if faults.count > form.max_bad_rows * (len(rows) + faults.count):
            raise InputError(
                f"line {line} of {str(path)!r} {reason}, and {faults.count} of {len(rows) + faults.count} lines are bad, more "
                f"than max_bad_rows {form.max_bad_rows:g} allows: fix or remove them"
            )
        log.warning("%s: omitted %d bad lines, the first is line %d: it %s", path, faults.count, line, reason)
    if not rows:
        raise InputError(f"caption table {shown_name!r} is empty: it needs one row per image")
    return rows


def _collected(paths: Sequence[Path], form: TableForm, faults: Faults) -> Rows:
    """Rows of files that have to be taken apart to be read."""
    lines = array("q")
    counts: list[int] = []

    def good() -> Iterator[Row]:
        for path in paths:
            for line, row in shown(_found(path, form), path):
                if isinstance(row, str):
                    faults.add(path, line, row)
                else:
                    lines.append(line)
                    yield row
            counts.append(len(lines))

    rows = Rows(good())
    rows.lines, rows.files = np.array(lines, dtype=np.int64), tuple(zip(map(str, paths), counts, strict=True))
    if paths[0].suffix == ".parquet":
        rows.columns = parquet_columns(paths[0])
    return rows


def _found(path: Path, form: TableForm) -> Iterator[tuple[int, Row | str]]:
    """Rows and bad lines of one file, by its ending."""
    if path.suffix not in TABLE_EXTENSIONS:
        raise InputError(f"table {str(path)!r} must end in one of {', '.join(TABLE_EXTENSIONS)}")
    if path.suffix == ".parquet" and form.header is None:
        return read_parquet(path, form.columns)
    if path.suffix in (*_READERS, ".parquet"):
        if form.header is not None:
            raise InputError(f"header {list(form.header)} is for csv and tsv files, not {path.suffix}: omit it")
        return _READERS[path.suffix](path)
    if path.suffix in (".txt", ".token") and (rows := flickr_rows(path)) is not None:
        return rows
    return _read_separated(path, form.delimiter, form.header)


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
            foreign = any(not field.isascii() and is_foreign(field) for field in record.fields)
            yield record.line, NO_UTF8 if foreign else dict(zip(names, record.fields, strict=False))


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


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Row | str]]]] = {
    ".jsonl": read_json_lines,
    ".json": read_json,
}
