"""Tables of one JSON object a line: where each row stands in its file, found once for a large one."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lightning_clip.data.sources.row_store import JsonLines, Row
from lightning_clip.data.sources.table_cache import TableCache, shown
from lightning_clip.data.text_files import encoding_of, open_text

__all__ = ["NO_UTF8", "Faults", "are_plain", "is_foreign", "read_json_lines", "rows_of_lines"]

NO_UTF8 = "is not UTF-8 text: save the table as UTF-8"
_MARK = b"\xef\xbb\xbf"


class Faults:
    """Bad lines: how many, and the first.

    Attributes:
        count: of all.
        first: its file, its number and what is wrong with it.
    """

    def __init__(self) -> None:
        self.count = 0
        self.first: tuple[Path, int, str] | None = None

    def add(self, path: Path, line: int, reason: str) -> None:
        """One more."""
        self.count += 1
        self.first = self.first or (path, line, reason)


def are_plain(paths: Sequence[Path]) -> bool:
    """Whether all files are jsonl whose lines can be read where they stand: UTF-8, ended by line feeds."""
    return all(path.suffix == ".jsonl" and _is_plain(path) for path in paths)


def _is_plain(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(1 << 16)
    return encoding_of(start).startswith("utf-8") and (b"\r" not in start or b"\n" in start) and len(start) > 0


def rows_of_lines(paths: Sequence[Path], cache: TableCache, faults: Faults) -> JsonLines:
    """The rows of plain jsonl files; bad lines are counted.

    Args:
        paths: of which `are_plain` is true.
        cache: of these files.
        faults: are added to.
    """
    if (kept := cache.load("lines")) is None:
        kept = _found(paths)
        cache.save("lines", **kept)
    for number, bad in enumerate(kept["bad"].tolist()):
        if bad and faults.first is None:
            faults.first = (paths[number], int(kept["bad_line"]), str(kept["reason"]))
        faults.count += bad
    return JsonLines(paths, kept["spans"], kept["lines"], kept["counts"].tolist())


def _found(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Places and numbers of all good lines, and the bad ones counted by file, in arrays that can be kept."""
    spans, lines = array("q"), array("q")
    counts: list[int] = []
    bad: list[int] = []
    first = (0, "")
    for path in paths:
        faults = Faults()
        for number, start, end, fault in shown(_places(path), path):
            if fault is not None:
                faults.add(path, number, fault)
            else:
                spans.extend((start, end))
                lines.append(number)
        if faults.first is not None and not any(bad):
            first = faults.first[1:]
        counts.append(len(lines))
        bad.append(faults.count)
    return {
        "spans": np.array(spans, dtype=np.int64).reshape(-1, 2),
        "lines": np.array(lines, dtype=np.int64),
        "counts": np.array(counts, dtype=np.int64),
        "bad": np.array(bad, dtype=np.int64),
        "bad_line": np.array(first[0], dtype=np.int64),
        "reason": np.array(first[1]),
    }


def _places(path: Path) -> Iterator[tuple[int, int, int, str | None]]:
    """Number, first byte, end and fault of each line that is not empty."""
    at = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            skipped = len(_MARK) if at == 0 and line.startswith(_MARK) else 0
            if not line[skipped:].isspace() and len(line) > skipped:
                try:
                    fault = None if isinstance(_parsed(line[skipped:].decode()), dict) else _NO_OBJECT
                except UnicodeDecodeError:
                    fault = NO_UTF8
                except _BadLine as error:
                    fault = str(error)
                yield number, at + skipped, at + len(line), fault
            at += len(line)


def read_json_lines(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Rows, and what is wrong with bad lines, by number, of a file in any encoding that `open_text` reads.

    Args:
        path: of jsonl.
    """
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = _parsed(line)
            except _BadLine as error:
                yield number, str(error)
                continue
            yield number, NO_UTF8 if is_foreign(line) else row if isinstance(row, dict) else _NO_OBJECT


_NO_OBJECT = "is no JSON object: it needs an image name and a caption"


class _BadLine(ValueError):
    """What is wrong with a line."""


def _parsed(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise _BadLine(f"is no JSON ({error.msg})") from None
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets in brackets
        raise _BadLine("is no JSON that can be read (nested too deep, or a number too long)") from None


def is_foreign(text: str) -> bool:
    """Whether bytes were no UTF-8; they came in as lone surrogates."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)
