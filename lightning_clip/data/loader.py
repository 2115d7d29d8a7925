"""The loader of a run; a checkpoint stores how far it came."""

from __future__ import annotations

import gc
import logging
import pickle
import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_clip.core.errors import InputError
from lightning_clip.data.batches import PairCollator
from lightning_clip.data.parts import Joined, PartCollator, PartSampler
from lightning_clip.data.parts import part_size as chosen_size
from lightning_clip.data.sampler import PairSampler, world

__all__ = ["PairLoader", "start_worker"]

log = logging.getLogger(__name__)


class PairLoader(DataLoader[Any]):
    """A `DataLoader` whose place in the run is one integer: the batches done.

    The place itself is asked of the Trainer's progress (`PairSampler.batches_done`). The rest of the state says what the
    checkpoint was written with, so that a run which goes on with other data or another batch is told what that means.

    In training that place is asked when the first batch is drawn, not when the iteration is made: whoever asks a Trainer for
    `estimated_stepping_batches` makes it before the progress of a checkpoint is restored. With an endless sampler one iteration
    serves all epochs: while the last batches of one are trained on, workers prepare the first of the next.

    Workers share a batch: each prepares a part of it (see `part_size`), so that a large batch takes as long as a part does, and
    two batches are in flight instead of two a worker. Batches are the same whatever the number of workers and parts.

    Args:
        dataset: samples by visit.
        part_size: samples of a part; None lets `part_size` choose.
        options: those of a `DataLoader`, with a `PairSampler` as sampler.
    """

    _running: Iterator[Any] | None = None
    _place = 0  # batches of the run that `_running` has handed out, and those before it

    def __init__(self, dataset: Any, *, part_size: int | None = None, **options: Any) -> None:
        collate, workers = options.get("collate_fn"), options.get("num_workers", 0)
        self.part_size = part_size or chosen_size(dataset, collate, options.get("batch_size"), workers)
        if self.part_size is not None:
            assert isinstance(collate, PairCollator)
            dataset.divided, options["collate_fn"] = True, PartCollator(collate)
        super().__init__(dataset, **options)

    @property
    def _index_sampler(self) -> Any:
        """What torch's iterators hand to workers, one list of visits a message."""
        batches: Any = self.batch_sampler
        return batches if self.part_size is None else PartSampler(batches, self.part_size)

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # callers ask no more of it than to be iterated
        # A Trainer that predicts puts a sampler of its own round it.
        trains = isinstance(self.sampler, PairSampler) and self.sampler.batches_done is not None
        return _Epoch(self) if trains else self._begun()

    def left(self) -> int:
        """Batches from the run's place to the end of its epoch; from now on `take` gives them."""
        sampler = self._pairs()
        assert sampler.batches_done is not None
        done = sampler.batches_done()
        at_work = self._running.parts if isinstance(self._running, Joined) else self._running
        shut = self.num_workers > 0 and self._iterator is not at_work  # by a Trainer, whose fit has ended
        if self._running is None or self._place != done or shut or not sampler.endless:
            self._running, self._place = self._begun(), done
        return sampler.batches - done % sampler.batches

    def take(self) -> Any:
        """The next batch of the run."""
        assert self._running is not None
        batch = next(self._running)
        self._place += 1
        return batch

    def _begun(self) -> Iterator[Any]:
        try:
            begun = super().__iter__()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            if "pickle" not in str(error):
                raise
            raise InputError(
                f"loader workers that are spawned must be sent all that they use ({error}): define the function or class "
                "at the top of a module, or load with num_workers=0"
            ) from error
        if self.part_size is None:
            return begun
        assert isinstance(self.collate_fn, PartCollator)
        pinned = self.pin_memory and torch.cuda.is_available()
        return Joined(begun, begun._index_sampler, self.dataset, self.collate_fn, pinned)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, int]:
        """What the order depends on, and the batches done."""
        sampler = self._pairs()
        return {"batches_done": sampler.batches_done() if sampler.batches_done else 0, **self._settings()}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Says what differs from the run that wrote the checkpoint."""
        now = self._settings()
        differing = [f"{name} was {state[name]} and is {now[name]}" for name in now if state.get(name, now[name]) != now[name]]
        if differing:
            log.warning(
                "the checkpoint was written with another order of samples (%s): this run goes on after as many batches, but "
                "some samples of this epoch will be seen twice and others not at all",
                "; ".join(differing),
            )

    def _settings(self) -> dict[str, int]:
        sampler = self._pairs()
        seed = getattr(self.dataset, "seed", 0)
        return {"samples": len(sampler.order), "seed": seed, "global_batch_size": (self.batch_size or 1) * world()[1]}

    def _pairs(self) -> PairSampler:
        assert isinstance(self.sampler, PairSampler)
        return self.sampler


class _Epoch(Iterator[Any]):
    """The rest of an epoch, workers and all, from when its first batch is asked for."""

    def __init__(self, loader: PairLoader) -> None:
        self._loader = loader
        self._left: int | None = None

    def __next__(self) -> Any:
        if self._left is None:
            self._left = self._loader.left()
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._loader.take()


def start_worker(worker: int) -> None:
    """What each loader worker does first."""
    torch.set_num_threads(1)  # workers are the parallelism: threads inside them would fight over the same cores
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them too: the run may need their batches to end well
    gc.freeze()  # or the garbage collector would touch, and so copy, every page that a forked worker shares
