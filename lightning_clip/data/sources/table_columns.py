"""Which columns of a table hold images and captions."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.sources.columns import cell
from lightning_clip.data.sources.row_store import Rows

__all__ = ["CaptionSetting", "check_columns_exist", "columns_to_read", "likely_column"]

CaptionSetting = str | Sequence[str] | Mapping[str, float] | None
log = logging.getLogger(__name__)
_LOOKED_AT = 10_000  # rows in which a column must have a cell to be preferred to others
_LIKELY = {
    "image": (
        *("image", "filepath", "file_name", "filename", "image_path", "image_name", "image_file", "file", "img", "path"),
        *("photo", "picture", "image_id"),
    ),
    "caption": (
        *("caption", "captions", "text", "texts", "title", "sentences.raw", "sentences", "sentence", "description"),
        *("comment", "report"),
    ),
    "label": ("label", "class", "class_name", "category", "labels"),
}


def likely_column(rows: Rows, kind: str, path: str) -> str:
    """The column that most probably holds what is asked for, where none was named; says which if it has another name.

    Args:
        rows: of the table.
        kind: "image", "caption" or "label".
        path: of the table, for the message.
    """
    if any(cell(row, kind) is not None for row in itertools.islice(rows, _LOOKED_AT)):
        return kind
    first = rows[0]
    for name in _LIKELY[kind]:
        for column in (name, *(own for own in first if own.lower() == name)):
            if cell(first, column) is not None or column in first:
                log.info("%s: no column %r, so column %r is taken as the %s", path, kind, column, kind)
                return column
    return kind


def check_columns_exist(rows: Rows, columns: Iterable[str], path: str) -> None:
    """Refuses columns that no row has, and says what would read the table.

    Raises:
        InputError: as that.
    """
    for column in columns:
        if any(cell(row, column) is not None for row in rows):
            continue
        known = list(rows.columns or rows[0])
        raise InputError(f"{path!r} has no column {column!r}: {nearest(column, known)}{_hint(column, known)}")


def _hint(column: str, known: Sequence[str]) -> str:
    """What one might have meant instead."""
    if len(known) == 1 and any(letter in known[0] for letter in "\t,;|"):
        letter = next(letter for letter in "\t,;|" if letter in known[0])
        return f". Its first line is not delimited as expected: give delimiter={letter!r}"
    labels = [name for name in known if name.lower() in _LIKELY["label"]]
    if column == "caption" and labels:
        return f". For images with a class and no text give caption_column=null and label_column={labels[0]}"
    if any(name.lower().rpartition(".")[2] in ("jpg", "jpeg", "png", "webp") for name in known):
        return ". Its first line is a row already: name the columns with header=[image, caption]"
    return ""


def columns_to_read(
    image: str | None, captions: str | Sequence[str] | Mapping[str, float] | None, others: Iterable[str]
) -> set[str]:
    """Names of all columns that a table is asked for: a file that keeps its columns apart need not give the rest.

    Args:
        image, captions: as `TableSource` takes them; "image" and "caption" stand for all usual names.
        others: further columns.
    """
    found = {*others}
    for kind, given in (("image", image), ("caption", captions)):
        found |= set(_LIKELY[kind]) if given == kind else {given} if isinstance(given, str) else set(given or ())
    return found
