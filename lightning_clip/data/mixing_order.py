"""Several orders as one, by weight: how many places each source gets, and which sample of it stands at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lightning_clip.data.order import Order, Stretch
from lightning_clip.data.permutation import Integers, all_permuted, mix

__all__ = ["Mixture", "Phase", "epoch_length", "shares"]

_BLOCK = 64  # places whose sources are counted together
_NONE = 255
_EARLIER = np.tri(_BLOCK, k=-1, dtype=np.bool_)  # of each place in a block, those before it


@dataclass(frozen=True)
class Phase:
    """Weights that hold from a step on.

    Args:
        step: optimizer batches done in the whole run when they begin to hold.
        weights: one per source, not all 0; only their ratio counts.
    """

    step: int
    weights: tuple[float, ...]


def shares(weights: Sequence[float], total: int) -> Integers:
    """Splits `total` places by weight, to the nearest whole number, their sum exact (largest remainders).

    Examples:
        >>> shares([1, 1, 2], 10).tolist()
        [3, 2, 5]
    """
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(np.int64)
    first = np.argsort(-(exact - counts), kind="stable")[: total - int(counts.sum())]
    counts[first] += 1
    return counts


def epoch_length(lengths: Sequence[int], weights: Sequence[float], upsample: bool) -> int:
    """Places of an epoch: until the scarcest source is used up, or with `upsample` until every source was.

    Examples:
        >>> epoch_length([100, 10], [1, 1], upsample=False), epoch_length([100, 10], [1, 1], upsample=True)
        (20, 200)
    """
    needed = [length * sum(weights) / weight for length, weight in zip(lengths, weights, strict=True) if weight > 0]
    # Rounded first: 0.1 + 0.2 and the like must not cost a sample.
    return int(np.ceil(round(max(needed), 6))) if upsample else int(np.floor(round(min(needed), 6)))


class Mixture(Order):
    """Samples of several sources in the proportions of their weights, finely mixed, each proportion exact in every epoch.

    Sources keep their own order (a window of shards stays a window). Where a source is needed more often than it has
    samples, it is gone through again in another permutation: no sample comes a third time before each came twice.

    Args:
        orders: of each source.
        phases: weights, by rising step, the first from step 0.
        length: places of an epoch.
        seed: chooses which source stands where.
    """

    def __init__(self, orders: Sequence[Order], phases: Sequence[Phase], length: int, seed: int) -> None:
        self.orders, self.phases, self.length, self.seed = list(orders), list(phases), length, seed
        self.starts = np.concatenate([[0], np.cumsum([len(order) for order in orders])])
        self._batches, self._batch_size = length, 1
        self._drawn: _Drawn | None = None

    def __len__(self) -> int:
        return self.length

    def prepare(self, batches: int, batch_size: int) -> None:
        """Steps are counted in global batches."""
        self._batches, self._batch_size, self._drawn = batches, batch_size, None

    def at(self, epoch: int, places: Integers) -> Integers:
        return self._at(epoch, places).samples

    def stretch(self, epoch: int, start: int, stop: int, step: int = 1) -> Stretch:
        return self._at(epoch, np.arange(start, stop, step, dtype=np.int64))

    def _at(self, epoch: int, places: Integers) -> Stretch:
        drawn = self._draw(epoch)
        own = drawn.which.reshape(-1)[places]  # (P,)
        ranks = drawn.before(places, own)
        samples, passes = np.empty(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        for number, order in enumerate(self.orders):
            at = np.flatnonzero(own == number)
            if at.size:
                found, repeats = _passed(order, epoch, ranks[at])
                samples[at], passes[at] = self.starts[number] + found, repeats
        return Stretch(samples, passes)

    def upcoming(self, epoch: int, place: int) -> Sequence[int]:
        """Shards of the sources that have any, numbered source by source; see `MixedSource.fetch`."""
        drawn = self._draw(epoch)
        numbers = np.arange(len(self.orders), dtype=np.uint8)
        used = drawn.before(np.full(len(numbers), place, dtype=np.int64), numbers).tolist()
        found: list[int] = []
        for number, (order, count) in enumerate(zip(self.orders, used, strict=True)):
            again, rank = divmod(count, len(order))
            found += [shard * len(self.orders) + number for shard in order.upcoming(_epoch_of(epoch, again), rank)]
        return found

    def _draw(self, epoch: int) -> _Drawn:
        """The source at each place of an epoch: a byte a place, drawn once an epoch."""
        if self._drawn is None or self._drawn.epoch != epoch:
            blocks = self.length // _BLOCK + 1  # the last has room for the place after all others
            which = np.full(blocks * _BLOCK, _NONE, dtype=np.uint8)
            for low, high, weights in self._spans(epoch):
                run = np.repeat(np.arange(len(self.orders), dtype=np.uint8), shares(weights, high - low))
                place = low
                for numbers in all_permuted(high - low, mix(self.seed, epoch, low)):
                    which[place : place + len(numbers)] = run[numbers]
                    place += len(numbers)
            self._drawn = _Drawn(epoch, which.reshape(blocks, _BLOCK), len(self.orders))
        return self._drawn

    def _spans(self, epoch: int) -> list[tuple[int, int, tuple[float, ...]]]:
        """Stretches of an epoch with equal weights: first place, end, weights."""
        borders = [(phase.step - epoch * self._batches) * self._batch_size for phase in self.phases]
        ends = [*borders[1:], self.length]
        spans = []
        for phase, low, high in zip(self.phases, borders, ends, strict=True):
            low, high = max(0, low), min(self.length, high)
            if low < high:
                spans.append((low, high, phase.weights))
        return spans


class _Drawn:
    """The source at each place of one epoch, and how many places of each source stand before any place.

    Args:
        epoch: its number.
        which: uint8 (blocks, 64), a source's number at each place; another number after the last.
        sources: how many there are.
    """

    def __init__(self, epoch: int, which: NDArray[np.uint8], sources: int) -> None:
        self.epoch, self.which = epoch, which
        counts = np.zeros((len(which), sources), dtype=np.int64)  # places of each source in all blocks before
        for number in range(sources):
            inside = (which == number).sum(axis=1, dtype=np.uint8)  # (blocks, 64) -> (blocks,)
            np.cumsum(inside[:-1], dtype=np.int64, out=counts[1:, number])
        self.counts = counts

    def before(self, places: Integers, sources: NDArray[np.uint8]) -> Integers:
        """Places of a source before a place, int64 (P,): a rank need not look at those of the others between its own.

        Args:
            places: (P,) from 0 to the epoch's length.
            sources: (P,) numbers of sources.
        """
        blocks, inside = places // _BLOCK, places % _BLOCK
        same = self.which[blocks] == sources[:, None]  # (P, 64)
        same &= _EARLIER[inside]
        found: Integers = self.counts[blocks, sources] + same.sum(axis=1, dtype=np.uint8)  # (P, 64) -> (P,)
        return found


def _passed(order: Order, epoch: int, ranks: Integers) -> tuple[Integers, Integers]:
    """Samples at ascending ranks of a source that is gone through as often as needed, and the number of each one's pass."""
    passes, places = np.divmod(ranks, len(order))
    again, starts = np.unique(passes, return_index=True)
    parts = zip(again.tolist(), np.split(places, starts[1:]), strict=True)
    return np.concatenate([order.at(_epoch_of(epoch, number), part) for number, part in parts]), passes


def _epoch_of(epoch: int, again: int) -> int:
    """Another permutation for each further pass of an epoch."""
    return epoch if again == 0 else mix(epoch, again)
