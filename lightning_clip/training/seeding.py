"""Random numbers of a step: torch's generator is set from (seed, batch, rank) alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lightning_clip.data.permutation import mix

if TYPE_CHECKING:
    from lightning.pytorch import Trainer

__all__ = ["seed_batch"]


def seed_batch(trainer: Trainer) -> int:
    """Makes dropout, patch dropout and other draws of a batch a function of (seed, batches done, rank).

    A run that was killed then draws what it would have drawn: a checkpoint need not hold generators, of which it could keep
    only those of one rank. The seed is the data module's.

    Returns:
        Batches done.
    """
    done: int = trainer.fit_loop.epoch_loop.batch_progress.total.processed  # type: ignore[attr-defined]
    seed = getattr(trainer.datamodule, "seed", 0)  # type: ignore[attr-defined]
    torch.manual_seed(mix(seed, done, trainer.global_rank) >> 1)
    return done
