"""Many remote shards as one: how many samples each has, and what becomes of those that cannot be read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from rich.progress import track

from lightning_clip.core.errors import InputError
from lightning_clip.data.shards.addresses import shown
from lightning_clip.data.shards.cache import ShardCache
from lightning_clip.data.shards.cache_files import known_index
from lightning_clip.data.shards.collection import Shards
from lightning_clip.data.shards.index import IndexHeader
from lightning_clip.data.shards.reader import TarReader, open_index, warn_of_fault
from lightning_clip.data.shards.remote_errors import RemoteError, remedy

__all__ = ["RemoteShards"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_REMOVED = 10  # times that a shard may be removed before it could be opened
_AT_ONCE = 16  # requests for the counts of remote shards
_NAMED = 5  # lost shards that a line names


class _Count(NamedTuple):
    """Samples of a shard, None where nothing tells; and why it cannot be read, if so."""

    samples: int | None
    lost: RemoteError | None = None


class RemoteShards(Shards):
    """Shards behind URLs, in a bounded local folder.

    How many samples a shard has is known from its index, if it was here before and has not changed since; otherwise from
    img2dataset's `_stats.json` beside it; otherwise it is fetched once to be counted.

    A shard that lastingly cannot be read (401, 403, 404, no tar) stays among the others, with as many samples as these have on
    average: each visit of one is a bad sample, as it is where a shard vanishes later. A server that does not answer ends the
    run at once, for it may answer to the next one, which would then see other samples.

    Args:
        urls: of the shards.
        cache: where the copies are.

    Raises:
        InputError: no shard can be read, or a server fails.
    """

    def __init__(self, urls: Sequence[str], cache: ShardCache) -> None:
        super().__init__()
        self.names, self.cache = list(urls), cache
        counts = self._all_counts()
        known = [count.samples for count in counts if count.samples is not None]
        self.lost = {shard: str(count.lost) for shard, count in enumerate(counts) if count.lost is not None}
        if len(self.lost) == len(counts) and (first := counts[0].lost) is not None:
            more = f" ({len(counts) - 1} more shards cannot be read either)" if len(counts) > 1 else ""
            raise InputError(f"no shard can be read: {first}{more}: {remedy(first)}")
        mean = max(1, round(sum(known) / len(known))) if known else 0
        self.counts = np.array([mean if count.samples is None else count.samples for count in counts], dtype=np.int64)
        if self.lost:
            listing = "; ".join([*self.lost.values()][:_NAMED]) + ("; ..." if len(self.lost) > _NAMED else "")
            samples = int(self.counts[list(self.lost)].sum())
            log.warning(
                "%d of %d shards cannot be read, their samples (about %d) count as bad: %s",
                len(self.lost),
                len(counts),
                samples,
                listing,
            )

    def local_path(self, shard: int) -> str:
        return str(self.cache.fetch(self.names[shard]))

    def headers(self) -> Iterator[tuple[str, IndexHeader]]:
        for shard, url in enumerate(self.names):
            if shard not in self.lost and (index := known_index(self.cache.path(url))) is not None:
                yield shown(url), index.header

    def fetch_ahead(self, shards: list[int]) -> None:
        self.cache.fetch_ahead([self.names[shard] for shard in shards])

    def is_current(self, reader: TarReader) -> bool:
        """Not where the shard was removed, changed on its server, and was fetched again."""
        return Path(reader.path).stat().st_mtime_ns == reader.index.header.modified

    def opened(self, shard: int, reader: TarReader) -> None:
        warn_of_fault(shown(self.names[shard]), reader.index.header)
        if len(reader) < self.counts[shard] and shard not in self.lost:
            log.warning("%s holds %d samples, but %d were announced", shown(self.names[shard]), len(reader), self.counts[shard])

    def read(self, shard: int, action: Callable[[TarReader], T]) -> T:
        for _ in range(_REMOVED):
            try:
                return super().read(shard, action)
            except FileNotFoundError:
                continue  # another process needed the room between our fetching and our opening it
        raise RemoteError(f"{shown(self.names[shard])} is removed as soon as it is fetched: raise cache_gigabytes")

    def _all_counts(self) -> list[_Count]:
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            counted = pool.map(self._count, self.names)
            return list(track(counted, "counting shards", len(self.names), disable=len(self.names) < 8))
        except RemoteError as error:
            raise InputError(f"{error}: {remedy(error)}") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the others would each wait for the same server

    def _count(self, url: str) -> _Count:
        try:
            return _Count(self._counted(url))
        except RemoteError as error:
            if not error.lasting:
                raise
            index = known_index(self.cache.path(url))
            return _Count(None if index is None else len(index), error)

    def _counted(self, url: str) -> int:
        path = self.cache.path(url)
        self.cache.renew(url)
        if (index := known_index(path)) is not None:
            return len(index)
        if not path.exists() and (count := self._announced(url)) is not None:
            return count
        for _ in range(_REMOVED):
            path = self.cache.fetch(url)
            if (index := known_index(path)) is not None:
                return len(index)
            try:
                return len(open_index(path))
            except (FileNotFoundError, InputError):
                if path.exists():
                    self.cache.forget(url)  # what it holds is no tar archive any more
        raise InputError(f"{shown(url)!r} is removed as soon as it is fetched: raise cache_gigabytes")

    def _announced(self, url: str) -> int | None:
        """The count that img2dataset wrote beside a shard."""
        base, mark, query = url.partition("?")
        try:
            found = self.cache.remote.read(f"{base.removesuffix('.tar')}_stats.json{mark}{query}")
            return None if found is None else int(json.loads(found)["successes"])
        except RemoteError as error:
            if error.lasting:  # many stores forbid what is not there
                return None
            raise
        except (ValueError, KeyError, TypeError):
            return None
