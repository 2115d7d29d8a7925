"""Tables of images, captions and further columns: jsonl, csv, tsv or parquet files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import sample_rates
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.columns import caption_columns, captions_of, cell, image_of
from lightning_clip.data.sources.multi_labels import MultiLabels
from lightning_clip.data.sources.row_groups import Reading, chosen_rows, classes_of
from lightning_clip.data.sources.rows import TABLE_EXTENSIONS, TableForm, read_tables
from lightning_clip.data.sources.split_parts import Split
from lightning_clip.data.sources.table_columns import CaptionSetting, check_columns_exist, columns_to_read, likely_column
from lightning_clip.data.sources.table_files import table_files, table_images
from lightning_clip.data.sources.table_splits import split_groups
from lightning_clip.data.sources.value_columns import ColumnSetting, ValueColumns

__all__ = ["TableSource"]


@pair_sources.register("table")
class TableSource(PairSource):
    """A table of images and captions (jsonl, json, csv, tsv, parquet); images are files, members of a tar, or in the table.

    A column may be a field of JSON in a column: "meta.caption", "sentences.raw". Rows that name one image are one pair with
    several captions. Where `image_column` and `caption_column` are not given and there are no columns "image" and "caption",
    those with a usual name for them are taken: "filepath", "file_name", ... and "text", "title", "description", ...

    Args:
        path: the table, a pattern such as "part-*.parquet", or a folder of parquet files.
        images: folder, tar or zip of images, relative to the table or absolute, nothing outside of which is read; None looks in
            the table's own folder and those beside it.
        image_column: column with the image's name, its bytes, or base64; None where there are no images.
        caption_column: column with one caption or a list of them; several columns, or columns with weights (how often each is
            drawn); None for labelled images without text.
        label_column: column with the class name.
        label_columns: for pictures of several classes, a column for each, whose cells are above 0 where a picture has it.
        label_separator: `label_column` lists several classes with this between them, such as "|".
        columns: further columns that towers read, by name, or new name -> column, or new name -> columns that are stacked
            ({"gps": ["lat", "lon"]}). A cell is a number, a list of numbers, or names a `.npy` or `.wav` file among the images.
        where: column -> value (or list of values) that a row must have, such as {"split": "train"}.
        split: division into training, validation and test by a column, such as {"by": "patient", "test": 0.1, "val": 0.1}, with
            "seed" and "part" (see `Split`): rows of one value are never in two parts. It divides the rows that `where` leaves.
        delimiter: of csv files, such as ";"; None for a comma, or what the first line has instead.
        header: names of the columns of a csv or tsv file whose first line is a row already.
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
        caption_column: CaptionSetting = "caption",
        label_column: str | None = None,
        label_columns: Sequence[str] | None = None,
        label_separator: str | None = None,
        columns: ColumnSetting = None,
        where: Mapping[str, Any] | None = None,
        split: Mapping[str, Any] | None = None,
        delimiter: str | None = None,
        header: Sequence[str] | None = None,
        max_bad_rows: float = 0.01,
    ) -> None:
        files = table_files(path)
        self._values = ValueColumns(columns, self._read_file)
        several = label_columns is not None or label_separator is not None
        self._several = MultiLabels(label_columns, label_column, label_separator or "|") if several else None
        labels = self._several.cells() if self._several else (label_column,)
        further = [column for column in (*labels, *self._values.cells()) if column]
        division = None if split is None else Split.of(split)
        only_read = [*(where or {}), *([division.by] if division and division.by else [])]
        asked = columns_to_read(image_column, caption_column, [*further, *only_read])
        rows = read_tables(files, TableForm(delimiter, header, max_bad_rows, asked))
        image_column = likely_column(rows, "image", path) if image_column == "image" else image_column
        caption_column = likely_column(rows, "caption", path) if caption_column == "caption" else caption_column
        self._columns = caption_columns(caption_column)
        self.images = table_images(files[0], images, rows, image_column)
        check_columns_exist(rows, filter(None, (image_column, *self._columns, *further, *only_read)), path)
        self.rows = rows
        self._groups = chosen_rows(rows, Reading(where or {}, self._columns, image_column, further), path)
        # The classes are those of all parts, so that they are numbered alike.
        if self._several is not None:
            self._several.learn(rows, self._groups, path)
            self.class_names, label_column = self._several.names, None
        else:
            self.class_names = classes_of(rows, self._groups, label_column) if label_column else []
        divided = ""
        if division is not None:
            self._groups, divided = split_groups(rows, self._groups, division, image_column, path)
        if self._values:
            self._values.learn(rows[number] for number in self._groups.first().tolist())
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self._labels = {name: label for label, name in enumerate(self.class_names)}
        shown_label = label_column if self._several is None else ", ".join(self._several.cells())
        read = {"image": image_column, "caption": ", ".join(self._columns), "label": shown_label}
        shown = ", ".join(f"{kind} = {column}" for kind, column in read.items() if column)
        self.layout = f"a table of {len(rows):,} rows ({shown}), its images in {self.images.path}"
        self.layout += f"; {divided}" if divided else ""

    def __len__(self) -> int:
        return len(self._groups)

    def captions(self, index: int) -> tuple[str, ...]:
        return self._captions(index)[0]

    def label(self, index: int) -> int | None:
        return self._labels[str(cell(self._row(index), self.label_column))] if self.label_column else None

    def place(self, index: int) -> str:
        return self.rows.place(int(self._groups[index][0]))

    def __getitem__(self, index: int) -> Pair:
        row = self._row(index)
        image = None if self.image_column is None else image_of(cell(row, self.image_column))
        captions, weights = self._captions(index)
        class_name = str(cell(row, self.label_column)) if self.label_column else None
        columns = self._values.values(row)
        metadata: dict[str, Any] = {} if class_name is None else {"class_name": class_name}
        if self._several is not None:
            metadata["labels"] = self._several.of(row)
        return Pair(
            image=self.images.read(image) if isinstance(image, str) else image,
            captions=captions,
            key=image if isinstance(image, str) else str(index),
            label=None if class_name is None else self._labels[class_name],
            metadata={**metadata, **sample_rates(columns)},
            weights=weights,
            columns=columns,
        )

    def _read_file(self, name: str) -> bytes:
        return self.images.read(name)

    def _row(self, index: int) -> dict[str, Any]:
        return self.rows[int(self._groups[index][0])]

    def _captions(self, index: int) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
        """Of all rows of the image, in their order."""
        numbers = self._groups[index]
        if len(numbers) == 1:
            return captions_of(self.rows[int(numbers[0])], self._columns)
        found = [captions_of(self.rows[number], self._columns) for number in numbers.tolist()]
        captions = tuple(text for texts, _ in found for text in texts)
        weights = tuple(weight for _, own in found for weight in own or ())
        return captions, weights or None


_BESIDE = ("captions", "metadata")  # names of a table in the folder of its images; the latter is that of Hugging Face


@recognises(20)
def _table(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    if path.suffix in TABLE_EXTENSIONS and not path.is_dir():
        return partial(TableSource, name)
    if not path.is_dir():
        return None
    tables = [path / f"{stem}{ending}" for stem in _BESIDE for ending in TABLE_EXTENSIONS]
    tables += [path / "results.csv", *sorted(path.glob("*.token.txt")), *sorted(path.glob("*.token"))]
    return next((partial(TableSource, str(table)) for table in tables if table.exists()), None)
