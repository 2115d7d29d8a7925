"""`Rows`: a table's rows as mappings, in a few flat buffers or in the lines of their own file."""

from __future__ import annotations

import json
import mmap
import pickle
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from lightning_clip.data.sources.table_cache import TableCache

__all__ = ["JsonLines", "Row", "Rows"]

Row = dict[str, Any]


class Rows(Sequence[Row]):
    """Rows as bytes: workers that touch Python objects copy their pages, and a table of millions would be held many times.

    Args:
        rows: mappings of plain types.

    Attributes:
        lines: numbers of the lines or entries (N,) they stand on, from 1; empty for rows that were made.
        files: the files they come from, and how many rows there are up to the end of each.
        columns: the names of all columns, where the file says them and not each row.
        cache: keeps what was found out about them; None for rows that were made.

    Examples:
        >>> Rows([{"image": "a.jpg"}, {"image": "b.jpg"}])[1]
        {'image': 'b.jpg'}
    """

    def __init__(self, rows: Iterator[Row] | Sequence[Row]) -> None:
        content, ends = bytearray(), array("q", [0])
        for row in rows:
            content += pickle.dumps(row, protocol=5)
            ends.append(len(content))
        self._content = np.frombuffer(content, dtype=np.uint8)
        self._ends = np.frombuffer(ends, dtype=np.int64)
        self._describe(np.empty(0, dtype=np.int64), ())

    def _describe(self, lines: np.ndarray, files: tuple[tuple[str, int], ...]) -> None:
        self.lines, self.files = lines, files
        self.columns: tuple[str, ...] = ()
        self.cache: TableCache | None = None

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
        return self._read(index % len(self))

    def _read(self, index: int) -> Row:
        # The bytes are our own, written a moment ago in this process or its parent.
        row: Row = pickle.loads(self._content[self._ends[index] : self._ends[index + 1]].data)
        return row


class JsonLines(Rows):
    """Rows that stay in their files, of which only the places of lines are kept.

    Args:
        files: of jsonl, UTF-8.
        spans: first byte and end of each row's line in its file (N, 2).
        lines: their numbers (N,), from 1.
        counts: rows up to the end of each file.
    """

    def __init__(self, files: Sequence[Path], spans: np.ndarray, lines: np.ndarray, counts: Sequence[int]) -> None:
        self._spans, self._counts = spans, np.asarray(counts, dtype=np.int64)
        self._files = [_Mapped(path) for path in files]
        self._describe(lines, tuple(zip(map(str, files), map(int, counts), strict=True)))

    def __len__(self) -> int:
        return len(self._spans)

    def _read(self, index: int) -> Row:
        file = 0 if len(self._files) == 1 else int(np.searchsorted(self._counts, index, side="right"))
        first, end = self._spans[index].tolist()
        row: Row = json.loads(self._files[file].content[first:end].decode())
        return row


class _Mapped:
    """A file as bytes, mapped when it is first read, in each process for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._map: mmap.mmap | None = None

    @property
    def content(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_map": None}
