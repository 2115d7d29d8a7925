"""Tar streams that can only be read from their beginning (`pipe:`), in the stream's own order."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.trust import check_trusted
from lightning_clip.core.types import Pair
from lightning_clip.data.order import Order, Sequential
from lightning_clip.data.permutation import mix, permuted
from lightning_clip.data.shards import lowered
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.shards import pair_of_members

__all__ = ["StreamSource"]

log = logging.getLogger(__name__)


@pair_sources.register("stream")
class StreamSource(PairSource):
    """Pairs from commands that write tar shards, for data that nothing but a program can reach.

    Shards are dealt out to `streams` on each rank, in an order drawn from (seed, epoch); every batch comes from one stream,
    through a shuffle buffer. What this guarantees: the order is a function of seed, epoch, ranks, `streams` and the batch
    size, so a run that is killed goes on with the very next sample, also with another number of workers, but has to read each
    stream again from its beginning to get there. It does not guarantee that each sample comes once an epoch: a stream that is
    shorter than its share begins again, a longer one is cut. Use shards on a disk or a URL wherever there are any.

    Args:
        path: "pipe:COMMAND", with braces for many, such as "pipe:cat shards/train-{000000..000099}.tar".
        samples: pairs that make an epoch; a stream does not know its length.
        streams: on each rank; a multiple of the number of loader workers, or each of them reads streams of the others too.
        buffer: pairs among which the next one is drawn.
        caption_key: key of the captions in .json members.

    Raises:
        InputError: no number of samples, or numbers below 1.
    """

    random_access = False

    def __init__(
        self, path: str, samples: int | None = None, *, streams: int = 4, buffer: int = 1000, caption_key: str = "caption"
    ) -> None:
        from braceexpand import braceexpand

        check_trusted(f"stream {path!r} runs a command")
        if samples is None:
            raise InputError(f"stream {path!r} does not know its length: give samples, the pairs that make an epoch")
        if min(samples, streams, buffer) < 1:
            raise InputError(f"stream has samples {samples}, streams {streams}, buffer {buffer}: use 1 or more")
        self.path, self.size, self.streams, self.buffer, self.caption_key = path, samples, streams, buffer, caption_key
        self.commands = list(braceexpand(path))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        raise InputError(
            f"stream {self.path!r} has no samples by number: it is for training only; put it into shards on a disk"
        )

    def order(self, seed: int) -> Order:
        return Sequential(self.size)

    def dealt(self, seed: int, batch_size: int, rank: int, ranks: int) -> DealtStreams:
        """What loader workers of this rank look visits up in."""
        if len(self.commands) < self.streams * ranks:
            raise InputError(
                f"stream {self.path!r} has {len(self.commands)} shards for {self.streams} streams on {ranks} ranks: set "
                f"streams to at most {max(1, len(self.commands) // ranks)}, or write more shards"
            )
        return DealtStreams(self, seed, batch_size, rank, ranks)


class DealtStreams(PairSource):
    """The streams of one rank, read forward: place p of the rank is in batch p // batch_size, that in stream batch % streams.

    Args:
        source: where the shards come from.
        seed: of the order.
        batch_size: pairs of a batch on this rank.
        rank: this one.
        ranks: how many there are.
    """

    random_access = False

    def __init__(self, source: StreamSource, seed: int, batch_size: int, rank: int, ranks: int) -> None:
        self.source, self.seed, self.batch_size, self.rank, self.ranks = source, seed, batch_size, rank, ranks
        self._open: dict[int, tuple[int, int, Iterator[Pair]]] = {}  # stream -> epoch, place, what follows

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        return self.visited(0, index)

    def visited(self, epoch: int, index: int) -> Pair:
        """The pair at a place of an epoch; streams are opened, or read on, as far as that.

        Raises:
            OSError: the stream gave no pair at all.
        """
        batch, within = divmod(index // self.ranks, self.batch_size)
        round_, stream = divmod(batch, self.source.streams)
        place = round_ * self.batch_size + within
        known = self._open.get(stream)
        if known is None or known[0] != epoch or known[1] > place:
            known = (epoch, 0, self._pairs(epoch, stream))
        at, pairs = known[1], known[2]
        for _ in range(place - at):
            next(pairs)
        pair = next(pairs)
        self._open[stream] = (epoch, place + 1, pairs)
        return pair

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}

    def _pairs(self, epoch: int, stream: int) -> Iterator[Pair]:
        """One stream without end: all its shards, then again in another order, through the buffer."""
        again = 0
        key = mix(self.seed, epoch, self.rank * self.source.streams + stream)
        held: list[Pair] = []
        drawn = 0
        while True:
            found = 0
            for pair in self._once(epoch, stream, again):
                found += 1
                held.append(pair)
                if len(held) >= self.source.buffer:
                    yield held.pop(mix(key, drawn) % len(held))
                    drawn += 1
            if not found:
                raise OSError("stream gave no pair")
            while held:
                yield held.pop(mix(key, drawn) % len(held))
                drawn += 1
            again += 1

    def _once(self, epoch: int, stream: int, again: int) -> Iterator[Pair]:
        commands = self.source.commands
        order = permuted(np.arange(len(commands)), len(commands), mix(self.seed, epoch))
        own = order[self.rank * self.source.streams + stream :: self.ranks * self.source.streams]
        for number in own[permuted(np.arange(len(own)), len(own), mix(self.seed, epoch, again))].tolist():
            try:
                for key, members in _samples(commands[number]):
                    if (pair := pair_of_members(key, members, self.source.caption_key)) is not None:
                        yield pair
            except Exception as error:  # a command fails as it likes; what it wrote before was used
                reason = error.args[0] if error.args else type(error).__name__
                log.warning("stream %s ended early: %s", commands[number], reason)


class _Tail:
    """Remembers the last bytes read: a whole archive ends with zeros, one that was cut does not, and tarfile is silent."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.last = stream, b""

    def read(self, size: int = -1) -> bytes:
        found = self.stream.read(size)
        self.last = (self.last + found)[-512:]
        return found


def _samples(command: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    from webdataset.gopen import gopen
    from webdataset.tariterators import group_by_keys, tar_file_expander

    with gopen(command) as stream:
        tail = _Tail(stream)
        # Extensions as an indexed shard has them: a column's name keeps its capitals.
        for members in group_by_keys(tar_file_expander([{"url": command, "stream": tail}]), lcase=False):
            yield members["__key__"], {lowered(name): part for name, part in members.items() if not name.startswith("__")}
        if tail.last.strip(b"\0"):
            raise OSError("the archive is cut off")


@recognises(5)
def _pipe(name: str) -> Callable[..., PairSource] | None:
    return partial(StreamSource, name) if name.startswith("pipe:") else None
