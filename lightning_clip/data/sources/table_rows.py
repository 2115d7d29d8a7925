"""What a table's rows are: which columns hold images and captions, which rows are asked for, which belong to one image."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.sources.columns import CaptionColumns, captions_of, cell
from lightning_clip.data.sources.rows import Rows

__all__ = ["Groups", "check_columns_exist", "chosen_rows", "likely_column", "same_image"]

log = logging.getLogger(__name__)
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
    if any(cell(row, kind) is not None for row in rows):
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
        known = list(rows[0])
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


def chosen_rows(rows: Rows, where: Mapping[str, Any], columns: CaptionColumns, path: str) -> np.ndarray:
    """Numbers (K,) of the rows that the filter lets through and that have a text; says how many have none.

    Args:
        rows: of the table.
        where: column -> value, or list of values, that a row must have; "1" is equal to 1.
        columns: of the captions; none where rows need no text.
        path: of the table, for errors.

    Raises:
        InputError: no such row, or none with a text.
    """
    wanted = {key: _ways(value) for key, value in where.items()}
    matching, described = 0, []
    for number, row in enumerate(rows):
        if all(_text_of(cell(row, key)) in values for key, values in wanted.items()):
            matching += 1
            if not columns or captions_of(row, columns)[0]:
                described.append(number)
    if not matching:
        found = {key: sorted({str(cell(row, key)) for row in rows})[:10] for key in where}
        there = "; ".join(f"column {key!r} has {', '.join(values)}" for key, values in found.items())
        raise InputError(f"no row of {path!r} has {dict(where)}: {there}")
    names = ", ".join(map(repr, columns))
    if not described:
        raise InputError(f"column {names} of {path!r} is empty in all {matching} rows: name the column with the captions")
    if len(described) < matching:
        log.warning("%s: omitted %d of %d rows without text in %s", path, matching - len(described), matching, names)
    return np.array(described, dtype=np.int64)


def _ways(value: Any) -> set[str]:
    return {_text_of(one) for one in (value if isinstance(value, list | tuple | set) else (value,))}


def _text_of(value: Any) -> str:
    """A cell as it would stand in a csv file, so that a filter means the same for every kind of table."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value)
    return text.lower() if text in ("True", "False") else text


class Groups:
    """Rows that belong together, in a few flat buffers: `groups[i]` -> row numbers (K,).

    Args:
        members: row numbers of each group.
    """

    def __init__(self, members: Sequence[Sequence[int]]) -> None:
        self._rows = np.fromiter(itertools.chain.from_iterable(members), dtype=np.int64)
        self._ends = np.cumsum([0, *map(len, members)])

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        found: np.ndarray = self._rows[self._ends[index] : self._ends[index + 1]]
        return found

    def first(self) -> np.ndarray:
        """The first row number of each group (N,)."""
        found: np.ndarray = self._rows[self._ends[:-1]]
        return found


def same_image(rows: Rows, chosen: np.ndarray, image: str | None, others: Sequence[str], path: str) -> Groups:
    """Rows that name one image and agree in all other columns that are read, such as one row per caption.

    Args:
        rows: of the table.
        chosen: their numbers (K,).
        image: the column with the image's name; rows with bytes in it stay alone.
        others: columns that must agree: label and further columns.
        path: of the table, for the message.
    """
    if image is None:
        return Groups([[number] for number in chosen.tolist()])
    groups: dict[Any, list[int]] = {}
    for number in chosen.tolist():
        row = rows[number]
        name = cell(row, image)
        key = (name, *(repr(cell(row, other)) for other in others)) if isinstance(name, str | int) else number
        groups.setdefault(key, []).append(number)
    if len(groups) < len(chosen):
        log.info("%s: %d rows are captions of %d images", path, len(chosen), len(groups))
    return Groups(list(groups.values()))
