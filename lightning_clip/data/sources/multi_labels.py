"""Several classes of a picture: columns of 0 and 1, or one column that lists them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.columns import cell, texts
from lightning_clip.data.sources.row_groups import Groups
from lightning_clip.data.sources.row_store import Rows

__all__ = ["MultiLabels"]

_PRESENT = {"true", "yes", "present", "positive"}
_ABSENT = {"", "false", "no", "absent", "negative"}
_NOTHING = {"no finding", "none"}  # how lists of findings say that there is none


class MultiLabels:
    """Which classes a row has.

    Args:
        columns: one for each class, whose cells are above 0 where a picture has it; 0, -1 ("uncertain") and nothing mean not.
        column: in place of these, one that lists the classes.
        separator: between classes in a text, such as "|".

    Raises:
        InputError: both or neither of columns and column.

    Examples:
        >>> labels = MultiLabels(["Edema", "Mass"])
        >>> labels.of({"Edema": "1.0", "Mass": ""}), labels.of({"Edema": 0, "Mass": -1})
        ([0], [])
    """

    def __init__(self, columns: Sequence[str] | None = None, column: str | None = None, separator: str = "|") -> None:
        if (columns is None) == (column is None):
            raise InputError(
                "label_columns names the columns of several classes, label_column one that lists them: give either"
            )
        self.columns = None if columns is None else tuple(columns)
        self.column, self.separator = column, separator
        self.names: list[str] = list(columns or ())

    def cells(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (str(self.column),) if self.columns is None else self.columns

    def learn(self, rows: Rows, groups: Groups, path: str) -> None:
        """Finds the classes in a column that lists them, in the order of their names.

        Args:
            rows: of the table.
            groups: those that are used.
            path: of the table, for the error.

        Raises:
            InputError: no row has a class.
        """
        if self.columns is None:
            found = {name for number in groups.first().tolist() for name in self._listed(rows[number])}
            if not found:
                raise InputError(f"column {self.column!r} of {path!r} lists no class: name the column with the labels")
            self.names = sorted(found)

    def of(self, row: Mapping[str, Any]) -> list[int]:
        """Numbers of the classes a row has, rising.

        Raises:
            ValueError: a cell that is neither a number nor yes or no.
        """
        if self.columns is not None:
            return [number for number, column in enumerate(self.columns) if _is_present(cell(row, column))]
        listed = set(self._listed(row))
        return [number for number, name in enumerate(self.names) if name in listed]

    def _listed(self, row: Mapping[str, Any]) -> list[str]:
        parts = [part.strip() for text in texts(cell(row, str(self.column))) for part in text.split(self.separator)]
        return [part for part in parts if part and part.lower() not in _NOTHING]


def _is_present(value: Any) -> bool:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return False
    text = str(value).strip().lower()
    if text in _PRESENT | _ABSENT:
        return text in _PRESENT
    try:
        return float(text) > 0
    except ValueError as error:
        raise ValueError("label is neither a number nor yes or no") from error
