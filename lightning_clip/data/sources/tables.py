"""Tables of images, captions and further columns: jsonl, csv, tsv or parquet files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import sample_rates
from lightning_clip.data.images import ImageStore
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.columns import CaptionColumns, caption_columns, captions_of, cell, image_of
from lightning_clip.data.sources.rows import TABLE_EXTENSIONS, Rows, read_table
from lightning_clip.data.sources.value_columns import ColumnSetting, ValueColumns

__all__ = ["TableSource"]

log = logging.getLogger(__name__)


@pair_sources.register("table")
class TableSource(PairSource):
    """A table of images and captions (jsonl, csv, tsv or parquet), the images being files, members of a tar, or in the table.

    A column may be a field of JSON in a column: "meta.caption".

    Args:
        path: the table.
        images: folder or tar of images, relative to the table or absolute; None looks in the table's own folder.
        image_column: column with the image's name, its bytes, or base64; None where there are no images.
        caption_column: column with one caption or a list of them; several columns, or columns with weights (how often each is
            drawn); None for labelled images without text.
        label_column: column with the class name.
        columns: further columns that towers read, by name, or new name -> column, or new name -> columns that are stacked
            ({"gps": ["lat", "lon"]}). A cell is a number, a list of numbers, or names a `.npy` or `.wav` file among the images.
        where: column -> value (or list of values) that a row must have, such as {"split": "train"}.
        delimiter: of csv files, such as ";".
        max_bad_rows: share of lines that may be broken; they are omitted and counted.

    Raises:
        InputError: missing or empty file, too many broken lines, a column or value that does not occur.
    """

    def __init__(
        self,
        path: str,
        images: str | None = None,
        *,
        image_column: str | None = "image",
        caption_column: str | Sequence[str] | Mapping[str, float] | None = "caption",
        label_column: str | None = None,
        columns: ColumnSetting = None,
        where: Mapping[str, Any] | None = None,
        delimiter: str | None = None,
        max_bad_rows: float = 0.01,
    ) -> None:
        table = existing_path(path, "caption table")
        rows = read_table(table, delimiter, max_bad_rows)
        self._columns = caption_columns(caption_column)
        self.images = ImageStore(table.parent / images if images else table.parent)
        self._values = ValueColumns(columns, self.images.read)
        for column in filter(None, (image_column, *self._columns, label_column, *self._values.cells(), *(where or {}))):
            if not any(cell(row, column) is not None for row in rows):
                raise InputError(f"{path!r} has no column {column!r}: {nearest(column, rows[0])}")
        self.rows = rows
        self._chosen = _chosen(rows, where or {}, self._columns, path)
        if self._values:
            self._values.learn(rows[number] for number in self._chosen.tolist())
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        names = (cell(rows[number], label_column) for number in self._chosen.tolist()) if label_column else ()
        self.class_names = sorted({str(name) for name in names})
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return len(self._chosen)

    def captions(self, index: int) -> tuple[str, ...]:
        return captions_of(self._row(index), self._columns)[0]

    def label(self, index: int) -> int | None:
        return self._labels[str(cell(self._row(index), self.label_column))] if self.label_column else None

    def __getitem__(self, index: int) -> Pair:
        row = self._row(index)
        image = None if self.image_column is None else image_of(cell(row, self.image_column))
        captions, weights = captions_of(row, self._columns)
        class_name = str(cell(row, self.label_column)) if self.label_column else None
        columns = self._values.values(row)
        metadata = {} if class_name is None else {"class_name": class_name}
        return Pair(
            image=self.images.read(image) if isinstance(image, str) else image,
            captions=captions,
            key=image if isinstance(image, str) else str(index),
            label=None if class_name is None else self._labels[class_name],
            metadata={**metadata, **sample_rates(columns)},
            weights=weights,
            columns=columns,
        )

    def _row(self, index: int) -> dict[str, Any]:
        return self.rows[int(self._chosen[index])]


def _chosen(rows: Rows, where: Mapping[str, Any], columns: CaptionColumns, path: str) -> np.ndarray:
    """Numbers of the rows that the filter lets through and that have a text; says how many have none."""
    matching, described = 0, []
    for number, row in enumerate(rows):
        if _matches(row, where):
            matching += 1
            if not columns or captions_of(row, columns)[0]:
                described.append(number)
    if not matching:
        raise InputError(f"no row of {path!r} has {dict(where)}: {_values(rows, where)}")
    names = ", ".join(map(repr, columns))
    if not described:
        raise InputError(f"column {names} of {path!r} is empty in all {matching} rows: name the column with the captions")
    if len(described) < matching:
        log.warning("%s: omitted %d of %d rows without text in %s", path, matching - len(described), matching, names)
    return np.array(described, dtype=np.int64)


def _matches(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(cell(row, key) in (value if isinstance(value, list | tuple) else (value,)) for key, value in where.items())


def _values(rows: Rows, where: Mapping[str, Any]) -> str:
    """What the columns of a filter really hold, for the error that nothing matched."""
    found = {key: sorted({str(cell(row, key)) for row in rows})[:10] for key in where}
    return "; ".join(f"column {key!r} has {', '.join(values)}" for key, values in found.items())


@recognises(20)
def _table(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    if path.suffix in TABLE_EXTENSIONS:
        return partial(TableSource, name)
    beside = (path / f"captions{extension}" for extension in TABLE_EXTENSIONS)
    return next((partial(TableSource, str(table)) for table in beside if table.exists()), None)
