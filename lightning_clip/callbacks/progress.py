"""`Progress`: how far a run is, in one line that fits the terminal, or in a line now and then where there is none."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lightning_clip.core.pace import Pace
from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["Progress"]

_EVERY = 0.25  # seconds between two looks at the figures, for which a GPU has to be waited for
_LEAST_BAR = 10


class Progress(ProgressBar):
    """Optimizer steps of the whole run, the time that is left, and as many of the figures as there is room for.

    Lightning's own bars count the batches of an epoch. This one is what `lightning-clip` shows; hand it to a Trainer of
    your own for the same. Where the output is no terminal, such as the log of a cluster, it prints a line now and then.

    Args:
        every: seconds between two lines where there is no terminal.

    Examples:
        >>> import lightning as L
        >>> trainer = L.Trainer(callbacks=[Progress()], logger=False, enable_checkpointing=False)
        >>> type(trainer.progress_bar_callback).__name__
        'Progress'
    """

    def __init__(self, every: float = 60.0) -> None:
        super().__init__()
        self.every = every
        self._enabled = True
        self._bar: Bar | None = None
        self._tasks: dict[str, TaskID] = {}
        self._pace: Pace | None = None
        self._looked = 0.0
        self._handlers: list[logging.StreamHandler[Any]] = []

    @property
    def is_enabled(self) -> bool:
        """Whether it shows anything: not on further ranks, nor while a tuner tries steps."""
        return self._enabled

    def disable(self) -> None:
        self._enabled = False

    def enable(self) -> None:
        self._enabled = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Prints above the line."""
        text = kwargs.get("sep", " ").join(map(str, args))
        console = self._bar.console if self._bar is not None else PlainConsole()
        console.print(text, end=kwargs.get("end", "\n"), highlight=False, soft_wrap=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("training", _steps(trainer), trainer.global_step)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._show("training", trainer.global_step, trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._show("training", trainer.global_step, trainer, last=True)
        self._end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        batches = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self._begin("validation", _count(batches))

    def on_validation_batch_end(self, *_: Any) -> None:
        self._advance("validation")

    # The lines of evaluations go with the epoch: at the very end, callbacks print their tables.
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish("validation")

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("test", _count(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        self._advance("test")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish("test")

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin("prediction", _count(trainer.num_predict_batches))

    def on_predict_batch_end(self, *_: Any) -> None:
        self._advance("prediction")

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish("prediction")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end()

    def _begin(self, name: str, total: int | None, done: int = 0) -> None:
        """A line for a stage; the first one of a run takes the terminal."""
        if not self._enabled:
            return
        console = PlainConsole()
        if not (console.is_terminal or console.is_jupyter):
            if name == "training":
                self._pace = Pace("step", total, every=self.every)
            return
        if self._bar is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[count]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[said]}", markup=False),
            )
            # Without a thread of its own: loaders fork while it is shown.
            self._bar = Bar(*columns, console=console, expand=True, auto_refresh=False)
            before = sys.stderr
            self._bar.start()
            self._handlers = _redirected(before)
        if name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
        self._tasks[name] = self._bar.add_task(name, total=total, completed=done, count=_of(done, total), said="")
        self._bar.refresh()

    def _show(self, name: str, done: int, trainer: pl.Trainer, *, last: bool = False) -> None:
        """The training's line."""
        now = time.monotonic()
        if not self._enabled or (not last and now - self._looked < _EVERY):
            return
        self._looked = now
        if self._pace is not None and (line := self._pace.line(done, _figures(trainer.progress_bar_metrics))):
            self.print(line)
        if self._bar is None or name not in self._tasks:
            return
        task = self._bar.tasks[self._bar.task_ids.index(self._tasks[name])]
        count = _of(done, task.total)
        room = self._bar.console.width - len(f"{name}   {count} 0:00:00 ") - _LEAST_BAR - 1
        said = _figures({**trainer.progress_bar_metrics, **_speed(trainer)}, room)
        self._bar.update(self._tasks[name], completed=done, count=count, said=said)
        self._bar.refresh()

    def _advance(self, name: str) -> None:
        if self._bar is None or name not in self._tasks:
            return
        self._bar.advance(self._tasks[name])
        task = self._bar.tasks[self._bar.task_ids.index(self._tasks[name])]
        self._bar.update(self._tasks[name], count=_of(int(task.completed), task.total))
        if time.monotonic() - self._looked >= _EVERY:
            self._looked = time.monotonic()
            self._bar.refresh()

    def _finish(self, name: str) -> None:
        if self._bar is not None and name in self._tasks:
            self._bar.remove_task(self._tasks.pop(name))
            self._bar.refresh()
            if not self._tasks:
                self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        for handler in self._handlers:
            handler.setStream(sys.stderr)
        self._handlers.clear()
        self._bar, self._pace = None, None
        self._tasks.clear()


def _redirected(before: TextIO) -> list[logging.StreamHandler[Any]]:
    """Sends what is logged to the terminal above the bar; returns the handlers that were changed.

    Args:
        before: the stream that handlers were made with, which the bar has replaced by its own.
    """
    loggers = map(logging.getLogger, ("", "lightning", "lightning.pytorch", "lightning.fabric", "lightning_clip"))
    handlers = [handler for logger in loggers for handler in logger.handlers if type(handler) is logging.StreamHandler]
    changed = [handler for handler in handlers if handler.stream is before]
    for handler in changed:
        handler.setStream(sys.stderr)
    return changed


def _steps(trainer: pl.Trainer) -> int | None:
    """Optimizer steps of the whole run, None where nobody knows."""
    total = trainer.estimated_stepping_batches
    return int(total) if 0 < total < float("inf") else None


def _count(batches: Any) -> int | None:
    """Batches of all loaders."""
    total = sum(batches) if isinstance(batches, list) else batches
    return int(total) if total < float("inf") else None


def _of(done: int, total: float | None) -> str:
    return f"{done:,}" if total is None else f"{done:,}/{int(total):,}"


def _speed(trainer: pl.Trainer) -> dict[str, float]:
    """Samples a second, where they are logged."""
    found = trainer.callback_metrics.get("train/samples_per_second")
    return {} if found is None else {"samples/s": float(found)}


def _figures(metrics: Mapping[str, Any], room: int = 200) -> str:
    """As many figures as there is room for, those of the whole loss first."""
    said = ""
    for key, value in metrics.items():
        name = key.removeprefix("train/").removesuffix("_step")
        if name.endswith("_epoch") or not isinstance(value, int | float):
            continue
        text = f"{value:,.0f} samples/s" if name == "samples/s" else f"{name.replace('_', ' ')} {value:.4g}"
        longer = f"{said}, {text}" if said else text
        if len(longer) <= room:
            said = longer
    return said
