"""Text files as people have them: UTF-8 or UTF-16, with or without a byte-order mark."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import TextIO

__all__ = ["decode_text", "encoding_of", "lines_of", "open_text"]

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decode_text(content: bytes) -> str:
    """The text of a file; what is not UTF-8 says by its first bytes what it is.

    Args:
        content: the file's bytes.

    Raises:
        ValueError: bytes that are neither; other encodings cannot be told from each other.

    Examples:
        >>> decode_text("ein Hund".encode("utf-16")), decode_text(b"a dog")
        ('ein Hund', 'a dog')
    """
    try:
        text = content.decode(encoding_of(content))
    except UnicodeDecodeError as error:
        raise ValueError("text is not UTF-8") from error
    if "\x00" in text:
        raise ValueError("text is not UTF-8")  # UTF-16 without a mark, or no text at all
    return text


def lines_of(content: bytes) -> tuple[str, ...]:
    r"""The captions of a text file, one a line, as evaluation sets have them.

    Args:
        content: the file's bytes.

    Raises:
        ValueError: bytes that are no text.

    Examples:
        >>> lines_of("a dog\r\n\nan animal\n".encode())
        ('a dog', 'an animal')
    """
    return tuple(line.strip() for line in decode_text(content).splitlines() if line.strip())


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """A text file, opened in the encoding that its first bytes name; of UTF-8, other bytes come as lone surrogates.

    Args:
        path: the file, such as a table that a spreadsheet saved as "Unicode text", which is UTF-16.
        newline: as for `open`.
    """
    with path.open("rb") as file:
        encoding = encoding_of(file.read(4))
    return path.open(
        encoding=encoding, errors="surrogateescape" if encoding.startswith("utf-8") else "replace", newline=newline
    )


def encoding_of(start: bytes) -> str:
    """The encoding that the first bytes of a text name, UTF-8 without a mark.

    Args:
        start: at least 4 bytes, if there are as many.
    """
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
