"""What a user has -> pairs. A path, a mapping or the name "synthetic" arrives, a `PairSource` leaves."""

from __future__ import annotations

import csv
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.data.images import IMAGE_EXTENSIONS, ImageStore
from lightning_clip.data.shards import TarReader, expand_shards, read_samples
from lightning_clip.errors import InputError, existing_path, nearest
from lightning_clip.registry import Registry
from lightning_clip.types import Pair

__all__ = ["ClassFolders", "PairSource", "ShardSource", "TableSource", "pair_sources", "read_table"]

log = logging.getLogger(__name__)
_TABLES = ("captions.jsonl", "captions.csv", "captions.tsv", "captions.parquet")


class PairSource(ABC):
    """A map-style source of pairs: `len(source)` and `source[i] -> Pair`."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Pair: ...

    def captions(self, index: int) -> tuple[str, ...]:
        """Only the texts of a pair; sources override this where it saves reading the image."""
        return self[index].captions


def _source_of_path(name: str) -> Callable[..., PairSource]:
    """A string that is no registered name is a path: shards, a table, or a folder with a table or class folders."""
    path = Path(name).expanduser()
    if path.suffix == ".tar" or "{" in name or "*" in name:
        return partial(ShardSource, name)
    if path.suffix in _READERS:
        return partial(TableSource, name)
    existing_path(name, f"data (neither a known source, {', '.join(pair_sources.names())}, nor a path)")
    for table in _TABLES:
        if (path / table).exists():
            return partial(TableSource, str(path / table))
    if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()):
        return partial(ClassFolders, name)
    raise InputError(f"folder {name!r} has neither {', '.join(_TABLES)} nor one folder per class: give the table's own path")


pair_sources: Registry[PairSource] = Registry("data source", fallback=_source_of_path)


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


@pair_sources.register("shards")
class ShardSource(PairSource):
    """Tar shards in WebDataset layout: per sample an image and a .txt, a .json with captions, or a .cls label.

    Args:
        path: one shard, or many by braces or stars ("train-{000000..000099}.tar").
        caption_key: key of the captions in .json members.

    Raises:
        InputError: a shard is missing or broken, or no sample has both image and text (or label).
    """

    def __init__(self, path: str, caption_key: str = "caption") -> None:
        self.caption_key = caption_key
        self._readers = [TarReader(shard) for shard in expand_shards(path)]
        self._samples = [
            (reader, sample.key, image, sample.members)
            for reader in self._readers
            for sample in read_samples(reader)
            if (image := _image_member(sample.members)) and _has_text(sample.members)
        ]
        if not self._samples:
            raise InputError(
                f"shards {path!r} hold no sample with an image and a text: each needs KEY.jpg (or png, webp) beside KEY.txt, "
                "KEY.json or KEY.cls. `lightning-clip data pack` writes such shards."
            )

    def __len__(self) -> int:
        return len(self._samples)

    def captions(self, index: int) -> tuple[str, ...]:
        reader, _, _, members = self._samples[index]
        if "json" in members:
            value = json.loads(reader.read(members["json"])).get(self.caption_key)
            if value is not None:
                texts = value if isinstance(value, list) else [value]
                return tuple(text.strip() for text in texts if text.strip())
        if "txt" in members:
            text = reader.read(members["txt"]).decode("utf-8", errors="replace").strip()
            return (text,) if text else ()
        return ()

    def __getitem__(self, index: int) -> Pair:
        reader, key, image, members = self._samples[index]
        label = int(reader.read(members["cls"])) if "cls" in members else None
        return Pair(image=reader.read(image), captions=self.captions(index), key=key, label=label)


@pair_sources.register("class_folders")
class ClassFolders(PairSource):
    """Labelled images as torchvision's ImageFolder has them: one folder per class, its name the class name.

    Args:
        path: the folder of class folders.
    """

    def __init__(self, path: str) -> None:
        root = existing_path(path, "folder of class folders")
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
        self.class_names = [folder.name for folder in folders]
        self._files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
        ]
        if not self._files:
            raise InputError(f"{path!r} has no folder per class with images in it ({', '.join(IMAGE_EXTENSIONS)})")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Pair:
        file, label = self._files[index]
        return Pair(image=file.read_bytes(), captions=(), key=str(file), label=label)


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a jsonl, csv, tsv or parquet file.

    Raises:
        InputError: unknown extension, a line that does not parse, or no row.
    """
    if path.suffix not in _READERS:
        raise InputError(f"table {str(path)!r} must end in one of {', '.join(_READERS)}")
    rows = _READERS[path.suffix](path)
    if not rows:
        raise InputError(f"caption table {str(path)!r} is empty: it needs one row per image")
    return rows


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    rows = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} of {str(path)!r} is no JSON ({error}): mend or remove it") from error
            if not isinstance(row, dict):
                raise InputError(f"line {number} of {str(path)!r} is no JSON object: it needs an image name and a caption")
            rows.append(row)
    return rows


def _read_csv(path: Path, delimiter: str = ",") -> list[dict[str, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        return list(csv.DictReader(lines, delimiter=delimiter))


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return rows


_READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
}


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


def _image_member(members: Mapping[str, str]) -> str | None:
    return next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)


def _has_text(members: Mapping[str, str]) -> bool:
    return any(extension in members for extension in ("txt", "json", "cls"))
