"""What was found out about large tables, kept in the user's cache folder until their files change."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.data.sampler import world
from lightning_clip.data.shards.reader import cache_folder

__all__ = ["TableCache", "shown"]

log = logging.getLogger(__name__)
LARGE = 16 << 20  # bytes of a table from which on reading it again is worth a file, and reading it a bar
_OFTEN = 5000  # rows between two movements of the bar
T = TypeVar("T")


class TableCache:
    """Arrays that were computed from table files; small files have none, since they are read in no time.

    Nothing of it is executed: arrays of numbers and texts alone.

    Args:
        files: of a table.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        status = [path.stat() for path in files]
        self.files = [str(path.resolve()) for path in files]
        self.is_used = sum(one.st_size for one in status) >= LARGE
        self._stamp = json.dumps([(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in status])

    def load(self, part: str) -> dict[str, np.ndarray] | None:
        """The arrays of one computation, None where they were never kept or the files have changed since.

        Args:
            part: what was computed, with its settings.
        """
        if not self.is_used:
            return None
        try:
            with np.load(self._place(part), allow_pickle=False) as kept:
                return dict(kept) if str(kept["stamp"]) == self._stamp else None
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def save(self, part: str, **arrays: np.ndarray) -> None:
        """Keeps the arrays of one computation, if the folder takes them."""
        if not self.is_used:
            return
        try:
            with beside(self._place(part)) as place:
                np.savez(place, stamp=np.array(self._stamp), **arrays)  # type: ignore[arg-type]
        except (InputError, OSError) as error:
            log.debug("what was read of %s is not kept: %s", self.files[0], error)

    def _place(self, part: str) -> Path:
        name = hashlib.sha256(json.dumps([self.files, part]).encode()).hexdigest()[:32]
        return cache_folder() / "tables" / f"{name}.npz"


def shown(items: Iterator[T], path: Path, doing: str = "reading") -> Iterator[T]:
    """The items of a large file, counted on the screen of the first rank while they are read.

    Args:
        items: rows.
        path: their file.
        doing: said before its name.
    """
    if path.stat().st_size < LARGE or world()[0] != 0:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(f"{doing} {path.name}", total=None)
        for number, item in enumerate(items, start=1):
            if number % _OFTEN == 0:
                progress.update(task, completed=number)
            yield item
