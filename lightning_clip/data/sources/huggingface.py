"""Hugging Face datasets, by a name on the hub or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import sample_rates
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.columns import caption_columns, captions_of, image_of, texts
from lightning_clip.data.sources.value_columns import ColumnSetting, ValueColumns

__all__ = ["HuggingFaceSource"]


@pair_sources.register("huggingface")
class HuggingFaceSource(PairSource):
    """A dataset of images and texts with as many formats as the `datasets` library reads; images stay as they were encoded.

    Args:
        path: name on the hub, a folder written by `save_to_disk`, or a folder of parquet files or images.
        split: such as "train" or "train[:1000]".
        config: of datasets that have several.
        image_column: the column of images; None where there are none.
        caption_column: column with a text or a list of them, several columns, or columns with weights; None for labels alone.
        label_column: column with the class: a ClassLabel, or numbers.
        columns: further columns that towers read, by name, or new name -> column or columns that are stacked: numbers, arrays,
            sound in `.wav` files.

    Raises:
        InputError: no such dataset, split or column, or the library is missing.
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        *,
        config: str | None = None,
        image_column: str | None = "image",
        caption_column: str | Sequence[str] | Mapping[str, float] | None = "text",
        label_column: str | None = None,
        columns: ColumnSetting = None,
    ) -> None:
        try:
            import datasets
        except ImportError as error:
            raise InputError('Hugging Face datasets need a library: pip install "lightning-clip[datasets]"') from error
        self.path, self.split, self.config = path, split, config
        self.image_column, self.caption_column, self.label_column = image_column, caption_column, label_column
        self._columns = caption_columns(caption_column)
        self._values = ValueColumns(columns, _file_bytes)
        found = _load(datasets, path, split, config)
        for column in filter(None, (image_column, *_fields(self._columns, self._values.cells()), label_column)):
            if column not in found.column_names:
                raise InputError(f"dataset {path!r} has no column {column!r}: {nearest(column, found.column_names)}")
        self._data = _as_stored(datasets, found, [column for column in (image_column, *self._values.cells()) if column])
        if self._values:  # a dataset's columns are of one kind: a few rows tell it
            few = self._data.select_columns(_fields(self._values.cells())).select(range(min(100, len(found))))
            self._values.learn(few)
        self.class_names: list[str] = list(getattr(found.features[label_column], "names", [])) if label_column else []

    def __len__(self) -> int:
        return len(self._data)

    def captions(self, index: int) -> tuple[str, ...]:
        if len(self._columns) == 1 and (column := next(iter(self._columns))) in self._data.column_names:
            return texts(self._data.select_columns([column])[index][column])
        if not self._columns:
            return ()
        return captions_of(self._data.select_columns(_fields(self._columns))[index], self._columns)[0]

    def label(self, index: int) -> int | None:
        return (
            None if self.label_column is None else int(self._data.select_columns([self.label_column])[index][self.label_column])
        )

    def __getitem__(self, index: int) -> Pair:
        row = self._data[index]
        captions, weights = captions_of(row, self._columns)
        image = None if self.image_column is None else image_of(row[self.image_column])
        label = None if self.label_column is None else int(row[self.label_column])
        columns = self._values.values(row)
        metadata = {} if label is None or not self.class_names else {"class_name": self.class_names[label]}
        return Pair(
            image=Path(image).read_bytes() if isinstance(image, str) else image,
            captions=captions,
            key=f"{self.split}/{index}",
            label=label,
            metadata={**metadata, **sample_rates(columns)},
            weights=weights,
            columns=columns,
        )


def _fields(*columns: Iterable[str]) -> list[str]:
    """The dataset's columns in which columns or their fields stand."""
    return list(dict.fromkeys(name.partition(".")[0] for several in columns for name in several))


def _file_bytes(name: str) -> bytes:
    return Path(name).read_bytes()


def _as_stored(datasets: Any, data: Any, columns: list[str]) -> Any:
    """Images and sounds as bytes, as they were encoded."""
    for column in columns:
        kind = type(data.features.get(column))
        if kind in (datasets.Image, datasets.Audio):
            data = data.cast_column(column, kind(decode=False))
    return data


def _load(datasets: Any, path: str, split: str, config: str | None) -> Any:
    folder = Path(path).expanduser()
    try:
        if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
            found = datasets.load_from_disk(str(folder))
            if isinstance(found, datasets.DatasetDict):
                if split not in found:
                    raise InputError(f"dataset {path!r} has no split {split!r}: {nearest(split, found)}")
                found = found[split]
            return found
        return datasets.load_dataset(str(folder) if folder.is_dir() else path, config, split=split)
    except InputError:
        raise
    except Exception as error:  # the library raises as it likes
        raise InputError(
            f"no Hugging Face dataset {path!r} with split {split!r}: {' '.join(str(error).split())[:300]}"
        ) from error


@recognises(120)
def _saved(name: str) -> Callable[..., PairSource] | None:
    folder = Path(name).expanduser()
    saved = any((folder / file).exists() for file in ("dataset_dict.json", "state.json"))
    return partial(HuggingFaceSource, os.fspath(name)) if saved else None
