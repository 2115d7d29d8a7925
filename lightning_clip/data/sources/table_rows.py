"""What a table's rows are: which columns hold images and captions, which rows are asked for, which belong to one image."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.sources.columns import CaptionColumns, captions_of, cell
from lightning_clip.data.sources.rows import Rows

__all__ = ["Groups", "Reading", "check_columns_exist", "chosen_rows", "likely_column"]

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


class Reading(NamedTuple):
    """What is asked of a table's rows.

    Attributes:
        where: column -> value, or list of values, that a row must have; "1" is equal to 1.
        captions: columns of the captions; none where rows need no text.
        image: the column with the image's name; rows with bytes in it stay alone.
        others: columns in which rows of one image must agree: label and further columns.
    """

    where: Mapping[str, Any]
    captions: CaptionColumns
    image: str | None
    others: Sequence[str]


def chosen_rows(rows: Rows, reading: Reading, path: str) -> Groups:
    """The rows that the filter lets through and that have a text, those of one image together; says how many have none.

    Args:
        rows: of the table, looked at once.
        reading: what is asked of them.
        path: of the table, for messages.

    Raises:
        InputError: no such row, or none with a text.
    """
    wanted = {key: _ways(value) for key, value in reading.where.items()}
    image, captions, others = reading.image, reading.captions, reading.others
    groups: dict[Any, list[int]] = {}
    matching = described = 0
    for number, row in enumerate(rows):
        if wanted and not all(_text_of(cell(row, key)) in values for key, values in wanted.items()):
            continue
        matching += 1
        if captions and not captions_of(row, captions)[0]:
            continue
        described += 1
        name = None if image is None else cell(row, image)
        key: Any = name if isinstance(name, str) else number  # a number stands for a row that stays alone
        if others:
            key = (key, *(repr(cell(row, other)) for other in others))
        groups.setdefault(key, []).append(number)
    if not matching:
        found = {key: sorted({str(cell(row, key)) for row in rows})[:10] for key in reading.where}
        there = "; ".join(f"column {key!r} has {', '.join(values)}" for key, values in found.items())
        raise InputError(f"no row of {path!r} has {dict(reading.where)}: {there}")
    names = ", ".join(map(repr, reading.captions))
    if not described:
        raise InputError(f"column {names} of {path!r} is empty in all {matching} rows: name the column with the captions")
    if described < matching:
        log.warning("%s: omitted %d of %d rows without text in %s", path, matching - described, matching, names)
    if len(groups) < described:
        log.info("%s: %d rows are captions of %d images", path, described, len(groups))
    return Groups(list(groups.values()))


def _ways(value: Any) -> set[str]:
    return {_text_of(one) for one in (value if isinstance(value, list | tuple | set) else (value,))}


def _text_of(value: Any) -> str:
    """A cell as it would stand in a csv file, so that a filter means the same for every kind of table."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else str(value)
    return text.lower() if text in ("True", "False") else text
