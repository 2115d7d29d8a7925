"""Where a resumed run stands between two epochs, and in a validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

__all__ = ["begin_next_epoch", "validate_again"]


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


def validate_again(trainer: pl.Trainer) -> None:
    """Has a run that goes on from the checkpoint about to be written begin with the validation that is at work, from its start.

    Lightning takes up a validation in which a batch was begun and not ended, but at the batches' own numbers; here none is
    done, since what was measured of those before is in no checkpoint.

    Args:
        trainer: in a validation of a fit that ends now.
    """
    progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
    progress.reset()
    progress.total.ready = progress.total.started = 1
