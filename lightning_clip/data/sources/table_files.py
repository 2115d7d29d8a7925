"""Where a table's rows and images are: one file or several, and the folder that really holds the images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.images import ImageStore
from lightning_clip.data.sources.columns import cell, image_of
from lightning_clip.data.sources.row_store import Rows

__all__ = ["table_files", "table_images"]

log = logging.getLogger(__name__)
_TRIED = 3  # images whose file is looked for


def table_files(path: str) -> list[Path]:
    """The files of a table: one, all that a pattern names, or the parquet files of a folder, in the order of their names.

    Args:
        path: "captions.csv", "part-*.parquet", or a folder of parquet files.

    Raises:
        InputError: there is none.
    """
    given = Path(path).expanduser()
    if "*" in given.name:
        found = sorted(given.parent.glob(given.name))
        if not found:
            raise InputError(f"no table matches {path!r}: check the folder and the pattern")
        return found
    table = existing_path(path, "caption table")
    if not table.is_dir():
        return [table]
    found = sorted(table.glob("*.parquet"))
    if not found:
        raise InputError(f"folder {path!r} holds no parquet files: name the table in it")
    return found


def table_images(table: Path, images: str | None, rows: Rows, column: str | None) -> ImageStore:
    """The images of a table: as named, else beside it, else in a folder near it that holds the first ones.

    Args:
        table: one of its files.
        images: what the user named, relative to the table; None for nothing.
        rows: of the table.
        column: that names the images; None where there are no images.

    Raises:
        InputError: a place that is missing, or images that are named outside of it.
    """
    if images is not None:
        store = ImageStore(table.parent / images)
        return _inside(store, _first_names(rows, column), table)
    names = _first_names(rows, column)
    if not names or (table.parent / names[0]).is_file():
        return _inside(ImageStore(table.parent), names, table)
    for place in _near(table.parent):
        if all((place / name).is_file() for name in names):
            log.info("%s: its images are taken from %s", table, place)
            return ImageStore(place)
    return _inside(ImageStore(table.parent), names, table)


def _first_names(rows: Rows, column: str | None) -> list[str]:
    """Names of the first images that are no bytes."""
    if column is None:
        return []
    found = []
    for row in rows[:_TRIED]:
        try:
            found.append(image_of(cell(row, column)))
        except ValueError:
            continue  # a sample's own fault, counted when it is met
    return [name for name in found if isinstance(name, str)]


def _near(folder: Path) -> Iterator[Path]:
    """Sub-folders, the folder above and its sub-folders."""
    for place in (folder, folder.parent):
        if place != folder:
            yield place
        try:
            yield from sorted(entry for entry in place.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        except OSError:
            continue


def _inside(store: ImageStore, names: list[str], table: Path) -> ImageStore:
    """The place, unless the names lead out of it."""
    outside = next((name for name in names if store.path.is_dir() and store.place_of(name) is None), None)
    if outside is not None:
        folder = (table.parent / outside).resolve().parent
        raise InputError(
            f"{str(table)!r} names {outside!r}, which is outside of its images folder {str(store.path)!r}: give "
            f"images={str(folder)!r}, or another folder that holds them all"
        )
    return store
