"""Which of a table's rows are asked for, and which of them belong to one image."""

from __future__ import annotations

import hashlib
import logging
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.columns import CaptionColumns, captions_of, cell
from lightning_clip.data.sources.row_store import Rows

__all__ = ["Groups", "Reading", "chosen_rows", "classes_of", "image_key", "text_of"]

log = logging.getLogger(__name__)


class Groups:
    """Rows that belong together, in a few flat buffers: `groups[i]` -> row numbers (K,).

    Args:
        rows: row numbers, those of the first group first (N,).
        ends: where each group ends in them, a 0 before (G + 1,).
    """

    def __init__(self, rows: np.ndarray, ends: np.ndarray) -> None:
        self._rows, self._ends = rows, ends

    @classmethod
    def of(cls, numbers: Sequence[int], groups: Sequence[int]) -> Groups:
        """Rows whose groups are known.

        Args:
            numbers: of rows, rising (N,).
            groups: of each (N,), counted from 0 in the order in which they are first met.
        """
        own = np.asarray(groups, dtype=np.int64)
        ends = np.concatenate([[0], np.cumsum(np.bincount(own))]).astype(np.int64)
        return cls(np.asarray(numbers, dtype=np.int64)[np.argsort(own, kind="stable")], ends)

    def arrays(self) -> dict[str, np.ndarray]:
        """What the constructor takes."""
        return {"rows": self._rows, "ends": self._ends}

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        found: np.ndarray = self._rows[self._ends[index] : self._ends[index + 1]]
        return found

    @property
    def rows_in_all(self) -> int:
        """Rows of all groups together."""
        return len(self._rows)

    def digest(self) -> str:
        """Names which rows they are."""
        return hashlib.sha256(self._rows.tobytes() + self._ends.tobytes()).hexdigest()

    def chosen(self, mask: np.ndarray) -> Groups:
        """Some of the groups, in their order.

        Args:
            mask: bool (G,), True for those that stay.
        """
        sizes = np.diff(self._ends)
        ends = np.concatenate([[0], np.cumsum(sizes[mask])]).astype(np.int64)
        return Groups(self._rows[np.repeat(mask, sizes)], ends)

    def first(self) -> np.ndarray:
        """The first row number of each group (N,)."""
        found: np.ndarray = self._rows[self._ends[:-1]]
        return found


class Reading(NamedTuple):
    """What is asked of a table's rows.

    Attributes:
        where: column -> value, or list of values, that a row must have; "1" is equal to 1.
        captions: columns of the captions; none where rows need no text.
        image: the column with the image's name or bytes.
        others: columns in which rows of one image must agree: label and further columns.
    """

    where: Mapping[str, Any]
    captions: CaptionColumns
    image: str | None
    others: Sequence[str]


def chosen_rows(rows: Rows, reading: Reading, path: str) -> Groups:
    """The rows that the filter lets through and that have a text, those of one image together; says how many have none.

    Args:
        rows: of the table, looked at once, and not again while a large file stays as it is.
        reading: what is asked of them.
        path: of the table, for messages.

    Raises:
        InputError: no such row, or none with a text.
    """
    part = f"groups of {[*map(str, reading)]}"
    if (kept := rows.cache.load(part) if rows.cache else None) is not None:
        groups, matching = Groups(kept["rows"], kept["ends"]), int(kept["matching"])
    else:
        groups, matching = _grouped(rows, reading)
        if rows.cache:
            rows.cache.save(part, **groups.arrays(), matching=np.array(matching))
    described = groups.rows_in_all
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
    return groups


def _grouped(rows: Rows, reading: Reading) -> tuple[Groups, int]:
    """The groups, and how many rows the filter lets through."""
    wanted = {key: _ways(value) for key, value in reading.where.items()}
    image, captions, others = reading.image, reading.captions, reading.others
    known: dict[Any, int] = {}
    numbers, members = array("q"), array("q")
    matching = 0
    for number, row in enumerate(rows):
        if wanted and not all(text_of(cell(row, key)) in values for key, values in wanted.items()):
            continue
        matching += 1
        if captions and not captions_of(row, captions)[0]:
            continue
        key = number if image is None else image_key(cell(row, image), number)
        if others:
            key = (key, *(repr(cell(row, other)) for other in others))
        numbers.append(number)
        members.append(known.setdefault(key, len(known)))
    return Groups.of(numbers, members), matching


def image_key(value: Any, number: int) -> Any:
    """What rows of one image share: its name, or a digest of its bytes; a row without either stays alone, by its number."""
    if isinstance(value, Mapping):  # as Hugging Face datasets and their parquet files have it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=16).digest()
    return value if isinstance(value, str) and value else number


def classes_of(rows: Rows, groups: Groups, column: str) -> list[str]:
    """The class names in a column, sorted.

    Args:
        rows: of the table.
        groups: the rows that are used, of which the first of each is asked.
        column: with the class.
    """
    part = f"classes in {column} of {groups.digest()}"
    if rows.cache and (kept := rows.cache.load(part)) is not None:
        return [str(name) for name in kept["names"]]
    found = sorted({str(cell(rows[number], column)) for number in groups.first().tolist()})
    if rows.cache:
        rows.cache.save(part, names=np.array(found))
    return found


def _ways(value: Any) -> set[str]:
    return {text_of(one) for one in (value if isinstance(value, list | tuple | set) else (value,))}


def text_of(value: Any) -> str:
    """A cell as it would stand in a csv file, so that a filter means the same for every kind of table."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = value if isinstance(value, str) else str(value)
    return text.lower() if text in ("True", "False") else text
