"""`SaveOnSignal`: a checkpoint of the very step at a signal or Ctrl-C, then an orderly end; and one every ten minutes."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn

from lightning_clip.callbacks.evaluation_stops import (
    EvaluationBatches,
    end_validation,
    may_stop_at_its_end,
    may_stop_inside,
)
from lightning_clip.callbacks.last_checkpoint import LastCheckpoint, savers
from lightning_clip.callbacks.signals import Signals
from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.pauses import pausing
from lightning_clip.training.resuming import validate_again

__all__ = ["SaveOnSignal"]

log = logging.getLogger(__name__)
_KNOWN = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")


class SaveOnSignal(pl.Callback):
    """Saves `last.ckpt` and ends the run at a signal: that of SLURM, Kubernetes or a spot machine, or Ctrl-C.

    The signal is only noted when it comes; the checkpoint is written when the batch in work is done, so that the resumed run
    (`--ckpt_path last`) continues with the very next sample. All ranks stop after the same batch, whichever got the signal.
    In a validation the run stops after the batch at work, and the resumed one begins with the whole validation: what is trained
    is the same, and so is what ModelCheckpoint and EarlyStopping see. The process ends with 128 + the signal's number; a second
    Ctrl-C ends it at once. In a notebook Ctrl-C is the usual KeyboardInterrupt. Lightning's own handlers, which may save in the
    middle of a step, are replaced meanwhile. `Trainer.validate`, `test` and `predict`, and the check before the first step,
    have nothing to save: they stop after the batch at work, at Ctrl-C as usual.
    Against what sends no signal, `last.ckpt` is also written when it is about to be `every_minutes` old.

    Args:
        signals: names, such as "SIGTERM", or "SIGUSR1" with SLURM's `--signal=SIGUSR1@90`.
        folder: of `last.ckpt`; None for that of the run's ModelCheckpoint, or the Trainer's root folder.
        every_n_batches: how often several ranks compare notes, at least 1; a single rank stops after the batch at work.
        every_minutes: how old `last.ckpt` may become, in runs that have a ModelCheckpoint; None leaves all to that.
        requeue: whether to call `scontrol requeue` afterwards, where the run is a SLURM job.

    Attributes:
        signals: what has been received.

    Raises:
        InputError: an unknown signal, a number of batches below 1, or minutes that are not above 0.

    Examples:
        >>> SaveOnSignal(signals=["SIGTERM"]).signals.received is None
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
        self.signals, self.folder, self.every_n_batches, self.requeue = Signals(signals), folder, every_n_batches, requeue
        self.age = None if every_minutes is None else LastCheckpoint(60 * every_minutes)
        self._evaluation, self._pauses = EvaluationBatches(every_n_batches), ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Steps to the end of the callbacks, so that the checkpoint holds what the others made of the batch."""
        # A new list: the Trainer is walking over the old one.
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        trainer.callbacks = [*others, self]  # type: ignore[attr-defined]

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over, after Lightning has."""
        self._take(trainer, keyboard=False)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take(trainer)
        if self.age is not None:
            self.age.start()

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
        path = self._path(trainer)
        if received := self.signals.agreed(trainer):
            if not _is_validated_next(trainer, pl_module):  # else there, so that the resumed run does not pass over it
                self._save_and_stop(trainer, received, path)
        elif self.age is not None and self.age.is_due(trainer, path):
            self._save(trainer, path)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """As `on_train_batch_end`: a signal may have come since.

        Raises:
            SystemExit: with 128 + the signal's number, when a signal was received.
        """
        self._begin_evaluation(trainer)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not may_stop_inside(trainer, pl_module):
            return
        if received := self.signals.agreed(trainer):
            self._save_and_stop(trainer, received, self._path(trainer), validates=True)
        if may_stop_at_its_end(trainer, pl_module):
            self._pauses.enter_context(pausing(lambda: self._stop_validation(trainer, pl_module)))

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Ends at a signal, with the checkpoint of the training so far.

        Raises:
            SystemExit: with 128 + the signal's number, when a signal was received.
        """
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            self._stop_evaluation(trainer)
            return
        if self._evaluation.is_turn(trainer) and may_stop_inside(trainer, pl_module):
            self._stop_validation(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._stop_evaluation(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin_evaluation(trainer)

    def on_predict_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._stop_evaluation(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gives the signals back to Lightning, which gives them back to whoever had them before the fit."""
        self.signals.give_back()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._pauses.close()
        if trainer.state.fn != TrainerFn.FITTING:
            self.signals.give_back()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.give_back()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.signals.give_back()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._pauses.close()
        self.signals.give_back()

    def _take(self, trainer: pl.Trainer, *, keyboard: bool = True) -> None:
        self.signals.speaks = trainer.is_global_zero
        self.signals.take(keyboard=keyboard)

    def _begin_evaluation(self, trainer: pl.Trainer) -> None:
        if trainer.state.fn != TrainerFn.FITTING:
            self._take(trainer, keyboard=False)
        self._evaluation.begin(trainer)

    def _stop_validation(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Ends at a signal in a validation of a fit."""
        if received := self.signals.agreed(trainer):
            end_validation(trainer, module)
            self._save_and_stop(trainer, received, self._path(trainer), validates=True)

    def _stop_evaluation(self, trainer: pl.Trainer) -> None:
        """Ends at a signal where there is nothing to save."""
        if self._evaluation.is_turn(trainer) and (received := self.signals.agreed(trainer)):
            if trainer.is_global_zero:
                what = "before the first step" if trainer.sanity_checking else "in the middle of an evaluation"
                log.warning("stopped by %s %s: nothing is written", signal.Signals(received).name, what)
            raise SystemExit(128 + received)

    def _save_and_stop(self, trainer: pl.Trainer, received: int, path: Path, *, validates: bool = False) -> NoReturn:
        if validates:
            validate_again(trainer)
        self._save(trainer, path)
        if trainer.is_global_zero:
            log.warning("stopped by %s; continue with --ckpt_path %s", signal.Signals(received).name, path)
            if self.requeue and "SLURM_JOB_ID" in os.environ:
                _requeue()
        raise SystemExit(128 + received)

    def _is_turn(self, trainer: pl.Trainer, batch_idx: int) -> bool:
        """Whether ranks compare notes now: a question costs a wait for the device, so not in every batch."""
        turn = (batch_idx + 1) // trainer.accumulate_grad_batches
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        return trainer.world_size == 1 or turn % self.every_n_batches == 0 or last

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


def _is_validated_next(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
    """Whether a validation that can be left begins after the batch that was trained last, on all ranks; never by the clock."""
    by_clock = getattr(trainer, "_val_check_time_interval", None) is not None
    if by_clock or not sum(trainer.num_val_batches) or not may_stop_inside(trainer, module):
        return False
    loop: Any = trainer.fit_loop
    return bool(loop.epoch_loop._should_check_val_fx(loop._data_fetcher))


def _requeue() -> None:
    job = os.environ["SLURM_JOB_ID"]
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("SLURM job %s could not be requeued (%s): submit it again", job, error)
