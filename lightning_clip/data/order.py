"""The order of an epoch: which samples stand at a stretch of places, as a function of (seed, epoch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_clip.data.permutation import Integers, mix, permuted, permuted_each

__all__ = ["Order", "Sequential", "Shuffled", "Stretch", "Windowed"]


class Stretch(NamedTuple):
    """Consecutive places of an epoch.

    Attributes:
        samples: int64 (P,), places in the source.
        passes: int64 (P,), how often an epoch has used the sample before: 0, or more where a small source is repeated.
    """

    samples: Integers
    passes: Integers


class Order(ABC):
    """Which sample is at which place of which epoch. Nothing is stored: any place can be asked for at any time."""

    @abstractmethod
    def __len__(self) -> int:
        """Places in an epoch."""

    @abstractmethod
    def at(self, epoch: int, places: Integers) -> Integers:
        """Samples at ascending places of an epoch, int64 (P,) -> int64 (P,)."""

    def samples(self, epoch: int, start: int, stop: int) -> Integers:
        """Samples at the places [start, stop) of an epoch, int64 (stop - start,)."""
        return self.at(epoch, np.arange(start, stop, dtype=np.int64))

    def stretch(self, epoch: int, start: int, stop: int, step: int = 1) -> Stretch:
        """Samples at every `step`-th place of [start, stop) with the number of the pass; orders that repeat samples say it.

        A rank asks for its own places alone, whose number does not grow with that of the ranks.
        """
        found = self.at(epoch, np.arange(start, stop, step, dtype=np.int64))
        return Stretch(found, np.zeros(len(found), dtype=np.int64))

    def prepare(self, batches: int, batch_size: int) -> None:  # noqa: B027  (most orders have nothing to do)
        """Told once how long an epoch is in global batches; only orders that change with the step listen."""

    def upcoming(self, epoch: int, place: int) -> Sequence[int]:
        """Shards that will be needed after those of `place`: remote sources fetch them ahead."""
        return ()


class Sequential(Order):
    """Samples as the source has them."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def at(self, epoch: int, places: Integers) -> Integers:
        return places


class Shuffled(Order):
    """A permutation of all samples, another each epoch.

    Args:
        length: samples in the source.
        seed: chooses the permutations.

    Examples:
        >>> sorted(Shuffled(4, seed=0).samples(epoch=0, start=0, stop=4).tolist())
        [0, 1, 2, 3]
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return self.length

    def at(self, epoch: int, places: Integers) -> Integers:
        return permuted(places, self.length, mix(self.seed, epoch, 0))


class Windowed(Order):
    """Shards in a drawn order, in windows of so many; inside a window a permutation of all its samples.

    A window is what has to be at hand at one time: the next one can be fetched while this one is used.

    Args:
        counts: samples of each shard.
        window: shards in a window, at least 1.
        seed: chooses both orders.

    Examples:
        >>> order = Windowed([2, 3, 1], window=2, seed=0)
        >>> sorted(order.samples(epoch=5, start=0, stop=6).tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, counts: Sequence[int] | Integers, window: int, seed: int) -> None:
        self.counts, self.window, self.seed = np.asarray(counts, dtype=np.int64), window, seed
        self._starts: Integers = np.concatenate([np.zeros(1, dtype=np.int64), self.counts.cumsum()])
        self._drawn: tuple[int, Integers, Integers, Integers] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    def at(self, epoch: int, places: Integers) -> Integers:
        shards, ends, borders = self._draw(epoch)
        windows, which = np.unique(np.searchsorted(borders, places, side="right") - 1, return_inverse=True)
        low, lengths = borders[windows][which], borders[windows + 1] - borders[windows]
        keys = [mix(self.seed, epoch, 1 + window) for window in windows.tolist()]
        inside = low + permuted_each(places - low, lengths, keys, which)
        number = np.searchsorted(ends, inside, side="right")
        shard = shards[number]
        found: Integers = self._starts[shard] + inside - (ends[number] - self.counts[shard])
        return found

    def upcoming(self, epoch: int, place: int) -> Sequence[int]:
        """The shards of the window at `place` and of the next one."""
        shards, _, borders = self._draw(epoch)
        window = int(np.searchsorted(borders, place, side="right")) - 1
        found: list[int] = shards[window * self.window : (window + 2) * self.window].tolist()
        return found

    def _draw(self, epoch: int) -> tuple[Integers, Integers, Integers]:
        """Of an epoch: the shards in their order, the place after each, and where windows begin; drawn once."""
        if self._drawn is None or self._drawn[0] != epoch:
            number = len(self.counts)
            shards = permuted(np.arange(number, dtype=np.int64), number, mix(self.seed, epoch, 0))
            ends = self.counts[shards].cumsum()
            self._drawn = (epoch, shards, ends, self._borders(ends))
        return self._drawn[1:]

    def _borders(self, ends: Integers) -> Integers:
        """Places where windows begin, and the end."""
        last = np.unique(np.append(np.arange(self.window - 1, len(ends), self.window), len(ends) - 1))
        return np.concatenate([[0], ends[last]])
