"""`Reading`: an index that many threads read while a build may add to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

from lightning_clip.applications.search.index import SearchIndex
from lightning_clip.core.errors import InputError

__all__ = ["Reading"]


class Reading:
    """Hands an index to one thread at a time, as it is on the disk at that moment.

    Args:
        path: folder of the index.

    Raises:
        InputError: no index there, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.changes = path, 0
        self._lock = RLock()
        self._index = SearchIndex(path)
        self._version = self._index.entries.version()

    @contextmanager
    def __call__(self) -> Iterator[SearchIndex]:
        """The index, for the thread that is in the block; `changes` counts how often a build has changed it."""
        with self._lock:
            if self._index.entries.version() != self._version:
                with suppress(InputError):  # in the middle of a change: the old one serves until the next request
                    fresh = SearchIndex(self.path)
                    self._index.close()
                    self._index, self._version = fresh, fresh.entries.version()
                    self.changes += 1
            yield self._index

    def close(self) -> None:
        """Closes the index."""
        with self._lock:
            self._index.close()
