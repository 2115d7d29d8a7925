"""Flickr8k's and Flickr30k's lines "NAME.jpg#0<TAB>caption"."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_clip.data.text_files import open_text

__all__ = ["flickr_rows"]

_LINE = re.compile(r"([^\t]+)#(\d+)\t(.*)")


def flickr_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]] | None:
    """Lines of Flickr8k.token.txt and its like, a row per caption, or why one is none; None where the first is none of theirs.

    Args:
        path: the file.
    """
    with open_text(path) as lines:
        first = next((line for line in lines if line.strip()), "")
    return _rows(path) if _LINE.match(first) else None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            found = _LINE.match(line.rstrip("\r\n"))
            if found is not None:
                yield number, {"image": found[1], "caption": found[3]}
            elif line.strip():
                yield number, "is not NAME.jpg#0, a tab and a caption"
