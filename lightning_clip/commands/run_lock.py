"""A lock on the folders into which a run writes its checkpoints: a second run into them is told in one line."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_clip.core.locks import only_writer

__all__ = ["OnlyRun"]


class OnlyRun(pl.Callback):
    """Holds the lock while `fit` lasts, on the first rank; a process that is killed loses it."""

    def __init__(self) -> None:
        self._held = ExitStack()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When the folders are known.

        Raises:
            InputError: another run writes into one of them.
        """
        if not trainer.is_global_zero:
            return
        found = {str(callback.dirpath) for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)}
        try:
            for folder in sorted(folder for folder in found - {"None"} if "://" not in folder):
                self._held.enter_context(only_writer(folder, "the folder of this run's checkpoints"))
        except BaseException:
            self._held.close()
            raise

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Others may go on in its place."""
        self._held.close()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The run is over."""
        self._held.close()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._held = ExitStack()
