"""Text for terminals that cannot show all letters: nothing that is printed ends a run."""

from __future__ import annotations

import codecs
import sys
from typing import TextIO

__all__ = ["forgiving_streams", "showable"]

_HANDLER = "lightning_clip.plain"
_PLAIN = {"→": "->", "←": "<-", "…": "...", "–": "-", "—": "-", "×": "x", "·": ".", "≤": "<=", "≥": ">=", "±": "+-", "•": "*"}
_PLAIN |= {"\N{NO-BREAK SPACE}": " ", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "u"}


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that an encoding does not have: what looks like them, else a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _replaced)


def showable(text: str, encoding: str) -> str:
    """A text with the letters that an encoding has.

    Args:
        text: any, file names that are no text in UTF-8 among them.
        encoding: of the terminal.

    Examples:
        >>> showable("image → text: 犬", "ascii"), showable("image → text: 犬", "utf-8")
        ('image -> text: ?', 'image → text: 犬')
    """
    return text.encode(encoding, _HANDLER).decode(encoding)


def forgiving_streams(*streams: TextIO) -> None:
    """Makes stdout and stderr (or other streams) print what stands for letters that they cannot print, in place of raising.

    Args:
        *streams: to change; none for the process's own.
    """
    for stream in streams or (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) in ("strict", "surrogateescape") and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_HANDLER)
