"""Lines of csv and tsv files -> fields: quoted ones over several lines, and stray quotes that swallow nothing."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_clip.core.errors import InputError
from lightning_clip.data.text_files import open_text

__all__ = ["Record", "SeparatedValues", "delimiter_of"]

_MOST_LINES = 1000  # of one quoted cell; a stray quote is looked for no further
_DELIMITERS = "\t,;|"


class Record(NamedTuple):
    """The fields that begin on a line, or why they cannot be told.

    Attributes:
        line: number of its first line, from 1.
        fields: texts; empty for a blank line.
        fault: what is wrong with the line; None where nothing is.
    """

    line: int
    fields: list[str]
    fault: str | None = None


class SeparatedValues:
    r"""Records of a file with a delimiter, each with the number of its line.

    A quoted field may hold delimiters, doubled quotes and line breaks. A quote that opens a field and is never closed, or only
    after lines that look like records themselves, is a stray one: in tab-separated files, which are seldom quoted, it is a
    letter like any other; elsewhere its line is bad, and the next line is read as if nothing had happened.

    Args:
        path: the file, in UTF-8 or with a byte-order mark; bytes that are no UTF-8 come as lone surrogates.
        delimiter: one letter.

    Raises:
        InputError: a delimiter that is not one letter.

    Examples:
        >>> import tempfile
        >>> table = Path(tempfile.mkdtemp()) / "t.tsv"
        >>> _ = table.write_text('image\tcaption\n1.jpg\t"Best of 2020\n2.jpg\t"a ""dog"" runs"\n')
        >>> [record.fields for record in SeparatedValues(table, "\t")][1:]
        [['1.jpg', '"Best of 2020'], ['2.jpg', 'a "dog" runs']]
    """

    def __init__(self, path: Path, delimiter: str) -> None:
        delimiter = "\t" if delimiter == "\\t" else delimiter  # as one types it in a shell
        if not isinstance(delimiter, str) or len(delimiter) != 1 or delimiter in '"\r\n':
            raise InputError(f"delimiter {delimiter!r} must be one letter, such as ';' or '\\t'")
        self.path, self.delimiter = path, delimiter
        self._literal = delimiter == "\t"
        self._text = _Once()
        # One reader for all records: to make one takes as long as to read a line.
        self._reader = csv.reader(self._text, delimiter=delimiter, strict=True)
        self._width = 0  # fields of the first record
        self._last: list[str] = []  # fields of the last good record

    def __iter__(self) -> Iterator[Record]:
        self._width, self._last = 0, []
        csv.field_size_limit(1 << 28)  # base64 pictures in a cell
        with open_text(self.path, newline=_line_end(self.path)) as file:
            lines = _Ahead(file)
            while (line := lines.take()) is not None:
                yield self._record(line, lines)

    def _record(self, line: str, lines: _Ahead) -> Record:
        """The record that begins with a line; takes the further lines that belong to it."""
        if '"' not in line:
            bare = _without_end(line)
            return self._good(lines.number, bare.split(self.delimiter) if bare else [])
        if (fields := self._parsed(line)) is not None:
            return self._good(lines.number, fields)
        return self._over_lines(lines.number, line, lines)

    def _over_lines(self, number: int, line: str, lines: _Ahead) -> Record:
        """A record whose quoted field goes on in the next lines, if it does."""
        parts, quotes = [line], line.count('"')
        for more in lines.peek(_MOST_LINES):
            parts.append(more)
            quotes += more.count('"')
            if '"' not in more and self._like_record(more):
                break
            if '"' not in more or quotes % 2:
                continue  # still open
            fields = self._parsed("".join(parts))
            if fields is None or len(fields) != (self._width or len(fields)):
                break  # it closed in the middle of another record
            lines.skip(len(parts) - 1)
            return self._good(number, fields)
        if self._literal:
            return self._good(number, _without_end(line).split(self.delimiter))
        return Record(number, [], "opens a quote that is not closed before the next record")

    def _parsed(self, text: str) -> list[str] | None:
        """Fields of a whole record, None where a quote is still open; fields quoted badly are taken as they stand."""
        try:
            self._text.append(text)
            return next(self._reader)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                return None
        found = _without_end(text).split(self.delimiter)
        # A quote that closes before its field ends, such as "Best" of 2020: no quoting was meant if the fields add up.
        return found if "\n" not in _without_end(text) and len(found) == (self._width or len(found)) else None

    def _like_record(self, line: str) -> bool:
        """Whether a line could be a record itself: as many fields, and a name or number where the last record has one."""
        fields = _without_end(line).split(self.delimiter)
        if len(fields) != self._width or self._width < 2:
            return False
        return any(
            _is_name(known) and known == _shape(field) for known, field in zip(map(_shape, self._last), fields, strict=False)
        )

    def _good(self, line: int, fields: list[str]) -> Record:
        if fields and not self._width:
            self._width = len(fields)
        elif len(fields) == self._width:
            self._last = fields
        return Record(line, fields)


class _Once(list[str]):
    """Hands out each text once, then none until another is there."""

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if not self:
            raise StopIteration
        return self.pop()


class _Ahead:
    """Lines of a file that can be looked at before they are taken."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines, self.number = lines, 0
        self._waiting: list[str] = []

    def take(self) -> str | None:
        self.number += 1
        return self._waiting.pop(0) if self._waiting else next(self._lines, None)

    def peek(self, most: int) -> Iterator[str]:
        for place in range(most):
            if place == len(self._waiting):
                line = next(self._lines, None)
                if line is None:
                    return
                self._waiting.append(line)
            yield self._waiting[place]

    def skip(self, count: int) -> None:
        del self._waiting[:count]
        self.number += count


def delimiter_of(line: str) -> str | None:
    """The delimiter that a header seems to have, None where it has none.

    Args:
        line: first line of a file.

    Examples:
        >>> delimiter_of("image_name| comment_number| comment")
        '|'
    """
    counts = {letter: line.count(letter) for letter in _DELIMITERS}
    most = max(counts, key=lambda letter: counts[letter])
    return most if counts[most] else None


def _line_end(path: Path) -> str:
    """What ends a line: a carriage return alone where there is nothing else, as very old programs wrote."""
    with path.open("rb") as file:
        start = file.read(1 << 16)
    return "\r" if b"\r" in start and b"\n" not in start else "\n"


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r")


def _shape(field: str) -> str:
    """How a field looks: "img_0017.jpg" -> "a_0.a"."""
    short = field.strip().strip('"')[:200]
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", short))


def _is_name(shape: str) -> bool:
    """Whether a shape is that of a file's name or a number rather than of words."""
    return ("0" in shape or "." in shape) and " " not in shape and len(shape) > 1
