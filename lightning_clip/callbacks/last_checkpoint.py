"""The age of a run's last checkpoint, and the callbacks that write checkpoints."""

from __future__ import annotations

import time
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

__all__ = ["LastCheckpoint", "savers"]


class LastCheckpoint:
    """How old the last checkpoint is.

    Args:
        seconds: it may be.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.start()

    def start(self) -> None:
        """Nothing is lost yet."""
        self._begun = self._asked = time.time()

    def is_due(self, trainer: pl.Trainer, path: Path) -> bool:
        """Whether it would be too old when this is asked next; the first rank decides for all."""
        if not savers(trainer) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return False
        due = False
        if trainer.is_global_zero:
            now = time.time()
            written = path.stat().st_mtime if path.exists() else 0.0
            since = max(self._begun, written if written <= now else 0.0)
            due = now - since + (now - self._asked) >= self.seconds
            self._asked = now
        return bool(trainer.strategy.broadcast(due))


def savers(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    """The run's callbacks that write checkpoints by step, epoch or time."""
    return [one for one in trainer.callbacks if isinstance(one, ModelCheckpoint)]  # type: ignore[attr-defined]
