"""`SaveOnSignal`: a checkpoint of the very step when a scheduler signals, then an orderly end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_clip.core.errors import InputError, nearest

__all__ = ["SaveOnSignal"]

log = logging.getLogger(__name__)
_KNOWN = ("SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")


class SaveOnSignal(pl.Callback):
    """Saves `last.ckpt` and ends the run at a signal, as SLURM, Kubernetes and spot machines send one before they stop a job.

    The signal is only noted when it comes; the checkpoint is written when the batch in work is done, so that the resumed run
    (`--ckpt_path last`) continues with the very next sample. All ranks stop after the same batch, whichever got the signal.
    The process ends with 128 + the signal's number. Lightning's own handlers, which may save in the middle of a step, are
    replaced while the fit runs.

    Args:
        signals: names, such as "SIGTERM", or "SIGUSR1" with SLURM's `--signal=SIGUSR1@90`.
        folder: of `last.ckpt`; None for that of the run's ModelCheckpoint, or the Trainer's root folder.
        every_n_batches: how often several ranks compare notes, at least 1; a single rank stops after the batch at work.
        requeue: whether to call `scontrol requeue` afterwards, where the run is a SLURM job.

    Raises:
        InputError: an unknown signal, or a number of batches below 1.

    Examples:
        >>> SaveOnSignal(signals=["SIGTERM"]).received is None
        True
    """

    def __init__(
        self,
        signals: Sequence[str] = ("SIGTERM", "SIGUSR1"),
        folder: str | None = None,
        *,
        every_n_batches: int = 8,
        requeue: bool = False,
    ) -> None:
        for name in signals:
            if name not in _KNOWN:
                raise InputError(f"signals has {name!r}: {nearest(name, _KNOWN)}")
        if every_n_batches < 1:
            raise InputError(f"every_n_batches {every_n_batches} must be at least 1")
        self.signals, self.folder, self.every_n_batches, self.requeue = tuple(signals), folder, every_n_batches, requeue
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Steps to the end of the callbacks, so that the checkpoint holds what the others made of the batch."""
        # A new list: the Trainer is walking over the old one.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, after Lightning has; a thread that is not the main one may not."""
        self.received = None
        try:
            self._before = {number: signal.signal(number, self._note) for number in self._numbers()}
        except ValueError:
            log.warning("signals are not watched: the fit does not run in the main thread")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves and ends, between two optimizer steps only: gradients that are still being summed are in no checkpoint.

        Raises:
            SystemExit: with 128 + the signal's number, when a signal was received.
        """
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not last:
            return
        received = self._agreed(trainer, batch_idx)
        if not received:
            return
        path = self._folder(trainer) / "last.ckpt"
        trainer.save_checkpoint(path)
        if trainer.is_global_zero:
            log.warning("stopped by %s; continue with --ckpt_path %s", signal.Signals(received).name, path)
            if self.requeue and "SLURM_JOB_ID" in os.environ:
                _requeue()
        raise SystemExit(128 + received)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back to Lightning, which gives them back to whoever had them before the fit."""
        self._give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number

    def _numbers(self) -> list[int]:
        return [getattr(signal, name) for name in self.signals if hasattr(signal, name)]

    def _agreed(self, trainer: pl.Trainer, batch_idx: int) -> int:
        """The signal that any rank has received, or 0."""
        own = self.received or 0
        if trainer.world_size == 1:
            return own
        # A question costs a wait for the device: not in every batch.
        turn = (batch_idx + 1) // trainer.accumulate_grad_batches
        if turn % self.every_n_batches and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return 0
        told = [number for number in self._numbers() if trainer.strategy.reduce_boolean_decision(own == number, all=False)]
        return told[0] if told else 0

    def _folder(self, trainer: pl.Trainer) -> Path:
        if self.folder is not None:
            return Path(self.folder).expanduser()
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        folders = (callback.dirpath for callback in callbacks if isinstance(callback, ModelCheckpoint) and callback.dirpath)
        folder = next(folders, trainer.default_root_dir)
        return Path(folder)


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM job %s could not be requeued (%s): submit it again", job, error)
