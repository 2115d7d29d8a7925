"""Many shards as one: their counts, and their readers by number."""

from __future__ import annotations

import json
import logging
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.progress import track

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.permutation import Integers
from lightning_clip.data.shards.cache import ShardCache
from lightning_clip.data.shards.index import IndexHeader, TarIndex
from lightning_clip.data.shards.reader import TarReader, index_path, open_index, warn_of_fault
from lightning_clip.data.shards.remote import Remote, RemoteError

__all__ = ["LocalShards", "RemoteShards", "Shards"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_READERS = 512  # kept at hand; opening one again costs some microseconds
_REMOVED = 10  # times that a shard may be removed before it could be opened
_AT_ONCE = 16  # requests for the counts of remote shards


class Shards(ABC):
    """Shards by number.

    Attributes:
        counts: int64 (S,), usable samples of each.
        names: path or URL of each.
    """

    counts: Integers
    names: list[str]

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
        if found is None:
            found = self._readers[shard] = TarReader(path, warn=False)
            if len(self._readers) > _READERS:
                self._readers.popitem(last=False)
        return found

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


class RemoteShards(Shards):
    """Shards behind URLs, in a bounded local folder.

    How many samples a shard has is known from its index, if it was here before; otherwise from img2dataset's
    `_stats.json` or an index beside it; otherwise it is fetched once to be counted.
    """

    def __init__(self, urls: Sequence[str], folder: str | None, gigabytes: float, stall: float) -> None:
        super().__init__()
        self.names = list(urls)
        self.cache = ShardCache(folder, gigabytes, Remote(stall=stall))
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            counts = list(
                track(pool.map(self._count, self.names), "counting shards", len(self.names), disable=len(self.names) < 8)
            )
        self.counts = np.array(counts, dtype=np.int64)

    def local_path(self, shard: int) -> str:
        return str(self.cache.fetch(self.names[shard]))

    def headers(self) -> Iterator[tuple[str, IndexHeader]]:
        for url in self.names:
            if (index := _known_index(self.cache.path(url))) is not None:
                yield url, index.header

    def fetch_ahead(self, shards: list[int]) -> None:
        self.cache.fetch_ahead([self.names[shard] for shard in shards])

    def reader(self, shard: int) -> TarReader:
        new = shard not in self._readers
        found = super().reader(shard)
        if new:
            warn_of_fault(self.names[shard], found.index.header)
        if new and len(found) < self.counts[shard]:
            log.warning("%s holds %d samples, but %d were announced", self.names[shard], len(found), self.counts[shard])
        return found

    def read(self, shard: int, action: Callable[[TarReader], T]) -> T:
        for _ in range(_REMOVED):
            try:
                return super().read(shard, action)
            except FileNotFoundError:
                continue  # another process needed the room between our fetching and our opening it
        raise RemoteError("remote shard is removed as soon as it is fetched: raise cache_gigabytes")

    def _count(self, url: str) -> int:
        path = self.cache.path(url)
        if (index := _known_index(path)) is not None:
            return len(index)
        if (count := self._announced(url)) is not None:
            return count
        for _ in range(_REMOVED):
            try:
                path = self.cache.fetch(url)
            except RemoteError:
                return 0  # said by the cache; its samples cannot even be counted
            if (index := _known_index(path)) is not None:
                return len(index)
            try:
                return len(open_index(path))
            except (FileNotFoundError, InputError):
                if path.exists():
                    raise
        raise InputError(f"{url!r} is removed as soon as it is fetched: raise cache_gigabytes")

    def _announced(self, url: str) -> int | None:
        """The count that img2dataset wrote beside a shard."""
        try:
            found = self.cache.remote.read(f"{url.removesuffix('.tar')}_stats.json")
            return None if found is None else int(json.loads(found)["successes"])
        except (OSError, ValueError, KeyError):
            return None


def _known_index(path: Path) -> TarIndex | None:
    """The index of a cached shard, which stays when the shard is removed."""
    try:
        return TarIndex(index_path(str(path)))
    except (OSError, ValueError, TypeError):
        return None


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
    header = index.header if (index := _known_index(Path(path))) is not None else None
    status = Path(path).stat()
    return header is not None and (header.size, header.modified) == (status.st_size, status.st_mtime_ns)


def _index_quietly(path: str) -> None:
    try:
        open_index(path)
    except ValueError:
        pass  # the main process meets it again and says so
