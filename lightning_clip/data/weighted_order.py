"""An order in which samples stand as often as their weights say, as a function of (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lightning_clip.data.order import Order, Stretch
from lightning_clip.data.permutation import Integers, mix, permuted

__all__ = ["Weighted"]


class Weighted(Order):
    """An epoch of N places for N samples, in which sample i stands N w_i / sum(w) times, rounded up or down.

    The samples lie on a line, each as long as its weight; N points at even distances, which each epoch shifts by another
    amount, choose them (systematic sampling), and a permutation mixes them. So counts are exact in every epoch, what is rounded
    differs between epochs, any place can be asked for at any time, and nothing depends on ranks or on where a run began.

    Args:
        weights: float64 (N,), at least 0, not all 0.
        seed: chooses shifts and permutations.

    Examples:
        >>> order = Weighted(np.array([3.0, 1.0, 0.0, 0.0]), seed=0)
        >>> sorted(order.samples(epoch=5, start=0, stop=4).tolist())
        [0, 0, 0, 1]
    """

    def __init__(self, weights: NDArray[np.float64], seed: int) -> None:
        self.seed = seed
        ends = np.cumsum(weights, dtype=np.float64)
        self._ends = ends / ends[-1] * len(weights)

    def __len__(self) -> int:
        return len(self._ends)

    def at(self, epoch: int, places: Integers) -> Integers:
        return self._at(epoch, places).samples

    def stretch(self, epoch: int, start: int, stop: int, step: int = 1) -> Stretch:
        return self._at(epoch, np.arange(start, stop, step, dtype=np.int64))

    def _at(self, epoch: int, places: Integers) -> Stretch:
        shift = mix(self.seed, epoch, 1) / 2.0**64
        points = permuted(places, len(self), mix(self.seed, epoch, 0))
        last = len(self) - 1
        samples = np.minimum(np.searchsorted(self._ends, points + shift, side="right"), last).astype(np.int64)
        starts = np.where(samples > 0, self._ends[samples - 1], 0.0)
        first = np.ceil(starts - shift)  # the first point of the sample
        return Stretch(samples, np.maximum(points - first, 0).astype(np.int64))
