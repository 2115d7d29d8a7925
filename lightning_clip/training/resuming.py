"""Where a resumed run stands between two epochs."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

__all__ = ["begin_next_epoch"]


def begin_next_epoch(trainer: pl.Trainer) -> None:
    """Lets a run that goes on from the last batch of an epoch count the next epoch as begun.

    Lightning counts that epoch as finished, yet takes the next for the rest of it: a checkpoint of the next epoch then says
    that it has not begun, and a second resume trains an epoch too many.

    Args:
        trainer: at the start of training, progress restored.
    """
    loop = trainer.fit_loop
    epochs: Any = loop.epoch_progress.current
    if loop.restarted_mid_epoch and epochs.ready == epochs.started == epochs.processed:
        loop.reset_restart_stage()
