"""Tables of image names and captions: a jsonl, csv, tsv or parquet file arrives, pairs leave."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.data.images import ImageStore
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.rows import TABLE_EXTENSIONS, read_table
from lightning_clip.errors import InputError, existing_path, nearest
from lightning_clip.types import Pair

__all__ = ["TableSource"]

log = logging.getLogger(__name__)


@pair_sources.register("table")
class TableSource(PairSource):
    """A table of image names and captions (jsonl, csv, tsv or parquet) beside a folder or tar of images.

    Args:
        path: the table.
        images: folder or tar of images, relative to the table or absolute; None looks in the table's own folder.
        image_column: column with the image's name.
        caption_column: column with one caption or a list of them; None for labelled images without text.
        label_column: column with the class name.
        where: column -> value (or list of values) that a row must have, such as {"split": "train"}.

    Raises:
        InputError: missing or empty file, a column or value that does not occur.
    """

    def __init__(
        self,
        path: str,
        images: str | None = None,
        *,
        image_column: str = "image",
        caption_column: str | None = "caption",
        label_column: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> None:
        table = existing_path(path, "caption table")
        rows = read_table(table)
        for column in filter(None, (image_column, caption_column, label_column, *(where or {}))):
            if not any(column in row for row in rows):
                raise InputError(f"{path!r} has no column {column!r}: {nearest(column, rows[0])}")
        self.rows = [row for row in rows if _matches(row, where or {})]
        if not self.rows:
            raise InputError(f"no row of {path!r} has {dict(where or {})}: {_values(rows, where or {})}")
        if caption_column:
            self.rows = _with_caption(self.rows, caption_column, path)
        self.images = ImageStore(table.parent / images if images else table.parent)
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self.class_names = sorted({str(row[label_column]) for row in self.rows}) if label_column else []
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return len(self.rows)

    def captions(self, index: int) -> tuple[str, ...]:
        return _texts(self.rows[index].get(self.caption_column)) if self.caption_column else ()

    def __getitem__(self, index: int) -> Pair:
        row = self.rows[index]
        image = row.get(self.image_column)
        name = str(image) if not isinstance(image, bytes) else str(index)
        return Pair(
            image=image if isinstance(image, bytes) else self.images.read(name),
            captions=self.captions(index),
            key=name,
            label=self._labels[str(row[self.label_column])] if self.label_column else None,
        )


def _matches(row: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    return all(row.get(key) in (value if isinstance(value, list | tuple) else (value,)) for key, value in where.items())


def _texts(value: Any) -> tuple[str, ...]:
    """One text or a list of them, without the empty ones."""
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(str(text).strip() for text in texts if text is not None and str(text).strip())


def _with_caption(rows: list[dict[str, Any]], column: str, path: str) -> list[dict[str, Any]]:
    """Leaves out rows without text, and says how many."""
    described = [row for row in rows if _texts(row.get(column))]
    if not described:
        raise InputError(f"column {column!r} of {path!r} is empty in all {len(rows)} rows: name the column with the captions")
    if len(described) < len(rows):
        log.warning("%s: left out %d of %d rows without text in %r", path, len(rows) - len(described), len(rows), column)
    return described


def _values(rows: list[dict[str, Any]], where: Mapping[str, Any]) -> str:
    """What the columns of a filter really hold, for the error that nothing matched."""
    found = {key: sorted({str(row.get(key)) for row in rows})[:10] for key in where}
    return "; ".join(f"column {key!r} has {', '.join(values)}" for key, values in found.items())


@recognises(20)
def _table(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    if path.suffix in TABLE_EXTENSIONS:
        return partial(TableSource, name)
    beside = (path / f"captions{extension}" for extension in TABLE_EXTENSIONS)
    return next((partial(TableSource, str(table)) for table in beside if table.exists()), None)
