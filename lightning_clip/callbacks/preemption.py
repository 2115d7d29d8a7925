"""`SaveOnSignal`: a checkpoint of the very step at a signal or Ctrl-C, then an orderly end; and one every ten minutes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl

from lightning_clip.callbacks.last_checkpoint import LastCheckpoint, savers
from lightning_clip.core.errors import InputError, nearest

__all__ = ["SaveOnSignal"]

log = logging.getLogger(__name__)
_KNOWN = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")


class SaveOnSignal(pl.Callback):
    """Saves `last.ckpt` and ends the run at a signal: that of SLURM, Kubernetes or a spot machine, or Ctrl-C.

    The signal is only noted when it comes; the checkpoint is written when the batch in work is done, so that the resumed run
    (`--ckpt_path last`) continues with the very next sample. All ranks stop after the same batch, whichever got the signal.
    The process ends with 128 + the signal's number; a second Ctrl-C ends it at once. In a notebook Ctrl-C is the usual
    KeyboardInterrupt. Lightning's own handlers, which may save in the middle of a step, are replaced while the fit runs.
    Against what sends no signal, `last.ckpt` is also written when it is about to be `every_minutes` old.

    Args:
        signals: names, such as "SIGTERM", or "SIGUSR1" with SLURM's `--signal=SIGUSR1@90`.
        folder: of `last.ckpt`; None for that of the run's ModelCheckpoint, or the Trainer's root folder.
        every_n_batches: how often several ranks compare notes, at least 1; a single rank stops after the batch at work.
        every_minutes: how old `last.ckpt` may become, in runs that have a ModelCheckpoint; None leaves all to that.
        requeue: whether to call `scontrol requeue` afterwards, where the run is a SLURM job.

    Raises:
        InputError: an unknown signal, a number of batches below 1, or minutes that are not above 0.

    Examples:
        >>> SaveOnSignal(signals=["SIGTERM"]).received is None
        True
    """

    def __init__(
        self,
        signals: Sequence[str] = ("SIGTERM", "SIGUSR1", "SIGINT"),
        folder: str | None = None,
        *,
        every_n_batches: int = 8,
        every_minutes: float | None = 10.0,
        requeue: bool = False,
    ) -> None:
        for name in signals:
            if name not in _KNOWN:
                raise InputError(f"signals has {name!r}: {nearest(name, _KNOWN)}")
        if every_n_batches < 1:
            raise InputError(f"every_n_batches {every_n_batches} must be at least 1")
        if every_minutes is not None and not every_minutes > 0:
            raise InputError(f"every_minutes {every_minutes} must be above 0, or None for no checkpoint by time")
        self.signals, self.folder, self.every_n_batches, self.requeue = tuple(signals), folder, every_n_batches, requeue
        self.age = None if every_minutes is None else LastCheckpoint(60 * every_minutes)
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._speaks = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Steps to the end of the callbacks, so that the checkpoint holds what the others made of the batch."""
        # A new list: the Trainer is walking over the old one.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, after Lightning has; a thread that is not the main one may not."""
        self.received, self._speaks = None, trainer.is_global_zero
        if self.age is not None:
            self.age.start()
        try:
            self._before = {number: signal.signal(number, self._note) for number in self._numbers()}
        except ValueError:
            log.warning("signals are not watched: the fit does not run in the main thread")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves, and ends at a signal, between two optimizer steps: gradients that are being summed are in no checkpoint.

        Raises:
            SystemExit: with 128 + the signal's number, when a signal was received.
        """
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not last:
            return
        if not self._is_turn(trainer, batch_idx):
            return
        received = self._agreed(trainer)
        path = self._path(trainer)
        if not received:
            if self.age is not None and self.age.is_due(trainer, path):
                self._save(trainer, path)
            return
        self._save(trainer, path)
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
        if number == signal.SIGINT:
            if self.received == number:
                for child in multiprocessing.active_children():
                    child.kill()
                os._exit(128 + number)
            # Not through the log, which may be at work right now.
            if self._speaks:
                os.write(2, b"\ninterrupted: saving after this step, then stopping (Ctrl-C again stops at once)\n")
        self.received = number

    def _numbers(self) -> list[int]:
        # A notebook's kernel, or a session at a prompt, shall live on.
        usual = ("SIGINT",) if hasattr(sys, "ps1") or "ipykernel" in sys.modules else ()
        return [getattr(signal, name) for name in self.signals if hasattr(signal, name) and name not in usual]

    def _is_turn(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether ranks compare notes now: a question costs a wait for the device, so not in every batch."""
        turn = (batch_idx + 1) // trainer.accumulate_grad_batches
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return trainer.world_size == 1 or turn % self.every_n_batches == 0 or last

    def _agreed(self, trainer: pl.Trainer) -> int:
        """The signal that any rank has received, or 0."""
        own = self.received or 0
        if trainer.world_size == 1:
            return own
        told = [number for number in self._numbers() if trainer.strategy.reduce_boolean_decision(own == number, all=False)]
        return told[0] if told else 0

    def _path(self, trainer: pl.Trainer) -> Path:
        """`last.ckpt`, or what the run's ModelCheckpoint called its last one."""
        path = self._folder(trainer) / "last.ckpt"
        if self.folder is None:
            for callback in savers(trainer):
                if callback.save_last and callback.last_model_path:
                    return Path(callback.last_model_path)
        return path

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        trainer.save_checkpoint(path)
        for callback in savers(trainer):
            if callback.save_last and not callback.last_model_path and path.parent == Path(callback.dirpath or ""):
                callback.last_model_path = str(path)  # or it would write a last-v1.ckpt beside ours

    def _folder(self, trainer: pl.Trainer) -> Path:
        if self.folder is not None:
            return Path(self.folder).expanduser()
        folders = (callback.dirpath for callback in savers(trainer) if callback.dirpath)
        return Path(next(folders, trainer.default_root_dir))


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM job %s could not be requeued (%s): submit it again", job, error)
