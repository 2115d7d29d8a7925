"""Many shards as one: their counts, and their readers by number."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.progress import track

from lightning_clip.core.errors import existing_path
from lightning_clip.data.permutation import Integers
from lightning_clip.data.shards.cache_files import known_index
from lightning_clip.data.shards.index import IndexHeader
from lightning_clip.data.shards.reader import TarReader, open_index, warn_of_fault

__all__ = ["LocalShards", "Shards"]

T = TypeVar("T")
_READERS = 512  # kept at hand; opening one again costs some microseconds


class Shards(ABC):
    """Shards by number.

    Attributes:
        counts: int64 (S,), usable samples of each.
        names: path or URL of each.
        lost: shard -> why it cannot be read, of those of which that is known; their counts are estimates.
    """

    counts: Integers
    names: list[str]
    lost: Mapping[int, str] = {}

    def __init__(self) -> None:
        self._readers: OrderedDict[int, TarReader] = OrderedDict()

    @abstractmethod
    def local_path(self, shard: int) -> str:
        """The shard on this machine."""

    @abstractmethod
    def headers(self) -> Iterator[tuple[str, IndexHeader]]:
        """Names of shards, and what their indexes say; of those that are at hand."""

    def fetch_ahead(self, shards: list[int]) -> None:  # noqa: B027  (local shards are there)
        """Shards that will be needed soon."""

    def read(self, shard: int, action: Callable[[TarReader], T]) -> T:
        """What an action finds in a shard; OSError where it cannot be fetched."""
        return action(self.reader(shard))

    def reader(self, shard: int) -> TarReader:
        """Reads a shard that is at hand."""
        path = self.local_path(shard)
        found = self._readers.get(shard)
        if found is None or not self.is_current(found):
            found = self._readers[shard] = TarReader(path, warn=False)
            self.opened(shard, found)
            if len(self._readers) > _READERS:
                self._readers.popitem(last=False)
        return found

    def is_current(self, reader: TarReader) -> bool:
        """Whether a reader still fits its file; local shards are not rewritten during a run."""
        return True

    def opened(self, shard: int, reader: TarReader) -> None:  # noqa: B027  (of local shards everything was said at the start)
        """Called with each new reader."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": OrderedDict()}


class LocalShards(Shards):
    """Shards in folders of this machine; those without a valid index are indexed now, several at a time."""

    def __init__(self, paths: Sequence[str]) -> None:
        super().__init__()
        self.names = list(paths)
        for path in self.names:
            existing_path(path, "tar archive")
        self._headers = _index_all(self.names)
        for path, header in zip(self.names, self._headers, strict=True):
            warn_of_fault(path, header)
        self.counts = np.array([header.samples for header in self._headers], dtype=np.int64)

    def local_path(self, shard: int) -> str:
        return self.names[shard]

    def headers(self) -> Iterator[tuple[str, IndexHeader]]:
        return zip(self.names, self._headers, strict=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_headers": []}  # of no use to workers


def _index_all(paths: Sequence[str]) -> list[IndexHeader]:
    missing = [path for path in paths if not _is_current(path)]
    if len(missing) > 1:
        workers = min(len(missing), os.cpu_count() or 1)
        # Forked: spawned workers would import the user's script again.
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            for _ in track(pool.map(_index_quietly, missing), "indexing shards", len(missing)):
                pass
    return [open_index(path).header for path in paths]


def _is_current(path: str) -> bool:
    header = index.header if (index := known_index(path)) is not None else None
    status = Path(path).stat()
    return header is not None and (header.size, header.modified) == (status.st_size, status.st_mtime_ns)


def _index_quietly(path: str) -> None:
    try:
        open_index(path)
    except ValueError:
        pass  # the main process meets it again and says so
