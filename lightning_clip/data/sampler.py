"""The sampler of pairs: an `Order` shared out over the ranks, from any batch on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count
from typing import NamedTuple

import numpy as np
import torch.distributed as dist
from torch.utils.data import DistributedSampler, SequentialSampler

from lightning_clip.core.errors import InputError
from lightning_clip.data.order import Order, Stretch
from lightning_clip.data.permutation import mix

__all__ = ["NOTHING", "InOrderSampler", "PairSampler", "Visit", "visit_seed", "world"]

_AT_ONCE = 1 << 15  # places asked of the order at a time, so that an epoch of any length needs no memory
_ANNOUNCED = 4096  # places after which the shards that come next are named


class Visit(NamedTuple):
    """A sample and the draw for which it is seen; workers draw captions and crops from both.

    Attributes:
        epoch: the epoch's number; mixed with the pass where an epoch uses a sample more than once.
        index: the sample's place in its source.
    """

    epoch: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it


_VISIT = partial(tuple.__new__, Visit)  # of a tuple; Visit's own way is written in Python and takes twice as long
NOTHING = Visit(-1, -1)  # in an evaluation of fewer samples than there are ranks


class PairSampler(DistributedSampler[Visit]):
    """Shares the places of an epoch over the ranks: rank r takes places r, r + world size, ...

    It is a `DistributedSampler` so that Lightning keeps it and calls `set_epoch`; unlike its parent it never repeats a
    sample to fill up. Rank and world size are asked when the iteration starts.

    Args:
        order: which sample is at which place.
        batch_size: with a number, each rank gets the same count of full batches and the remainder is omitted.
        batches_done: asked when an iteration starts, instead of what `set_epoch` was told last: how many batches the run
            has done. The iteration begins with the very next batch, in whichever epoch that is.
        limit: of an epoch's batches so many (int) or that share (float) is used, as `Trainer(limit_train_batches=...)` has it.
        fetch: told which shards come next, as `Order.upcoming` names them.

    Attributes:
        endless: one iteration goes on through all epochs, from `batches_done` on, so that loader workers need not wait at an
            epoch's end for the next to begin.

    Raises:
        InputError: no samples, or fewer than one full batch per rank needs.

    Examples:
        >>> from lightning_clip.data.order import Sequential
        >>> [visit.index for visit in PairSampler(Sequential(4))]
        [0, 1, 2, 3]
        >>> [visit.index for visit in PairSampler(Sequential(4), batch_size=1, batches_done=lambda: 6)]
        [2, 3]
    """

    def __init__(
        self,
        order: Order,
        *,
        batch_size: int | None = None,
        batches_done: Callable[[], int] | None = None,
        limit: int | float = 1.0,
        fetch: Callable[[list[int]], None] | None = None,
    ) -> None:
        self.order, self.batch_size, self.endless = order, batch_size, False
        self.epoch, self.batches_done, self.limit, self.fetch = 0, batches_done, limit, fetch
        if len(self) == 0:
            raise InputError(_too_few(len(order), batch_size))
        if batch_size is not None:
            order.prepare(self.batches, batch_size * world()[1])

    @property
    def batches(self) -> int:
        """Full batches of each rank in an epoch, of those that are used."""
        assert self.batch_size is not None
        full = len(self) // self.batch_size
        return max(1, min(full, self.limit) if isinstance(self.limit, int) else int(full * self.limit))

    def __len__(self) -> int:
        """Samples that this rank sees in an epoch."""
        rank, ranks = world()
        if self.batch_size is None:
            return len(range(rank, len(self.order), ranks))
        return len(self.order) // (self.batch_size * ranks) * self.batch_size

    def __iter__(self) -> Iterator[Visit]:
        rank, ranks = world()
        start = 0
        if self.batches_done is not None:
            assert self.batch_size is not None
            self.epoch, done = divmod(self.batches_done(), self.batches)
            start = done * self.batch_size
        if self.endless:
            return chain.from_iterable(self._epochs(rank, ranks, start))
        return chain.from_iterable(self._visits(rank, ranks, self.epoch, start, len(self)))

    def _epochs(self, rank: int, ranks: int, start: int) -> Iterator[Iterator[Visit]]:
        assert self.batch_size is not None
        used = self.batches * self.batch_size
        for epoch in count(self.epoch):
            yield from self._visits(rank, ranks, epoch, start, used)
            start = 0

    def _visits(self, rank: int, ranks: int, epoch: int, start: int, total: int) -> Iterator[Iterator[Visit]]:
        announced = None
        for first in range(start, total, _AT_ONCE):
            last = min(total, first + _AT_ONCE)
            stretch = self.order.stretch(epoch, first * ranks + rank, min(last * ranks, len(self.order)), ranks)
            epochs, samples = _epochs_of(stretch, epoch), stretch.samples.tolist()
            for place in range(first, last, _ANNOUNCED):
                shards = list(self.order.upcoming(epoch, place * ranks)) if self.fetch is not None else []
                if self.fetch is not None and shards and shards != announced:
                    self.fetch(shards)
                    announced = shards
                part = slice(place - first, place - first + _ANNOUNCED)
                yield map(_VISIT, zip(epochs[part], samples[part], strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, in the main process."""
        self.epoch = epoch


class InOrderSampler(PairSampler, SequentialSampler):  # type: ignore[misc]  # what it iterates over are visits
    """A `PairSampler` whose order is the same in every epoch, by which `Trainer(overfit_batches=...)` knows it as unshuffled.

    Any other sampler would be replaced there by one that knows nothing of ranks, epochs and where a run goes on. In an
    evaluation of fewer samples than ranks, a rank without any visits `NOTHING`: it would take no part otherwise.
    """

    def __len__(self) -> int:
        own = super().__len__()
        return 1 if own == 0 and self.batch_size is None and len(self.order) else own

    def __iter__(self) -> Iterator[Visit]:  # type: ignore[override]  # a visit is an index, too
        alone = self.batch_size is None and world()[0] >= len(self.order)
        return iter([NOTHING]) if alone else super().__iter__()


def _epochs_of(stretch: Stretch, epoch: int) -> list[int]:
    """The epoch of each visit; another number for each further pass through a small source."""
    if not stretch.passes.any():
        return [epoch] * len(stretch.passes)
    passes, which = np.unique(stretch.passes, return_inverse=True)
    numbers = [visit_seed(epoch, again, 0) if again else epoch for again in passes.tolist()]
    return [numbers[place] for place in which.tolist()]


def _too_few(samples: int, batch_size: int | None) -> str:
    ranks = world()[1]
    if not samples:
        return "the data has no samples: check its path and filters"
    if batch_size is None:
        return f"the data has {samples} samples, fewer than the {ranks} ranks: use fewer devices"
    return (
        f"a batch of {batch_size} on each of {ranks} ranks needs {batch_size * ranks} samples, but the data has {samples}: set "
        f"local_batch_size to at most {samples // ranks}"
    )


def visit_seed(seed: int, epoch: int, index: int) -> int:
    """Mixes three numbers into a seed of 63 bits, so that neighbours share nothing.

    Examples:
        >>> visit_seed(0, 0, 1) != visit_seed(0, 1, 0)
        True
    """
    return mix(seed, epoch, index) >> 1


def world() -> tuple[int, int]:
    """This rank and the number of ranks, asked of torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1
