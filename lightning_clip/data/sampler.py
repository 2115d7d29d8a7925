"""The order of samples: a pure function of (seed, epoch), shared out over ranks without repeats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from lightning_clip.errors import InputError

__all__ = ["PairSampler", "Visit", "visit_seed"]


class Visit(NamedTuple):
    """A sample and the epoch in which it is seen; workers draw captions and crops from both."""

    epoch: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it


class PairSampler(DistributedSampler[Visit]):
    """Shares a permutation of `length` samples over the ranks: rank r takes positions r, r + world size, ...

    It is a `DistributedSampler` so that Lightning keeps it and calls `set_epoch`; unlike its parent it never repeats a
    sample to fill up. Rank and world size are asked when the iteration starts.

    Args:
        length: number of samples in the source.
        seed: chooses the permutations.
        shuffle: False keeps the source's order.
        batch_size: with a number, each rank gets the same count of full batches and the remainder is left out.
        epoch_of_run: asked for the epoch when an iteration starts, instead of what `set_epoch` was told last.

    Raises:
        InputError: one full batch per rank needs more samples than there are.

    Examples:
        >>> [visit.index for visit in PairSampler(4, shuffle=False)]
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        *,
        shuffle: bool = True,
        batch_size: int | None = None,
        epoch_of_run: Callable[[], int] | None = None,
    ) -> None:
        self.length, self.seed, self.shuffle, self.batch_size = length, seed, shuffle, batch_size
        self.epoch, self.epoch_of_run = 0, epoch_of_run
        if len(self) == 0:
            world = _world()[1]
            raise InputError(
                f"a batch of {batch_size} on each of {world} ranks needs {(batch_size or 1) * world} samples, but the data "
                f"has {length}: set local_batch_size to at most {length // world}"
            )

    def __len__(self) -> int:
        """Samples that this rank sees in an epoch."""
        rank, world_size = _world()
        if self.batch_size is None:
            return len(range(rank, self.length, world_size))
        return self.length // (self.batch_size * world_size) * self.batch_size

    def __iter__(self) -> Iterator[Visit]:
        rank, world_size = _world()
        if self.epoch_of_run is not None:
            self.epoch = self.epoch_of_run()
        order = range(self.length) if not self.shuffle else self._permutation()
        for position in range(len(self)):
            yield Visit(self.epoch, order[position * world_size + rank])

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, in the main process."""
        self.epoch = epoch

    def _permutation(self) -> list[int]:
        generator = torch.Generator().manual_seed(visit_seed(self.seed, self.epoch, 0))
        order: list[int] = torch.randperm(self.length, generator=generator).tolist()
        return order


def visit_seed(seed: int, epoch: int, index: int) -> int:
    """Mixes three numbers into a seed of 63 bits (splitmix64), so that neighbours share nothing.

    Examples:
        >>> visit_seed(0, 0, 1) != visit_seed(0, 1, 0)
        True
    """
    mixed = 0
    for value in (seed, epoch, index):
        mixed = (mixed + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1


def _world() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
