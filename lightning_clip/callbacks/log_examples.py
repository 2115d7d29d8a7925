"""`LogExamples`: what a run's loggers show besides scalars."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger

from lightning_clip.callbacks.example_sections import example_sections
from lightning_clip.callbacks.logger_sinks import LoggerSink, sink_of
from lightning_clip.callbacks.run_settings import flat, run_settings
from lightning_clip.core.errors import InputError
from lightning_clip.reporting.drawing import png
from lightning_clip.reporting.sheets import ContactSheet

__all__ = ["LogExamples"]

log = logging.getLogger(__name__)


class LogExamples(pl.Callback):
    """Hands the run's loggers its settings, confusion matrices, examples with predictions, retrieved pictures and the report.

    They are those of `ZeroShotClassification`, `Retrieval`, `Report` and `EvaluationSuite` in the same run: TensorBoard and CSV
    get all of it, W&B and MLflow, which may send it elsewhere, settings and confusion matrices only, unless pictures are
    allowed: pictures, captions and the report, which has both, may be a patient's. `lightning-clip fit` and `test` add this
    callback where a run has a logger and a recipe does not name it.

    Args:
        log_pictures: None for local loggers alone, true for all, false for none.
        every_n_validations: draw at each of so many validations as well as at the end; None for the end alone.

    Raises:
        InputError: `every_n_validations` below 1.

    Examples:
        >>> from lightning_clip import LogExamples
        >>> LogExamples(log_pictures=True, every_n_validations=5).log_pictures
        True
    """

    def __init__(self, log_pictures: bool | None = None, every_n_validations: int | None = None) -> None:
        if every_n_validations is not None and every_n_validations < 1:
            raise InputError(f"every_n_validations {every_n_validations} must be at least 1, or None for the end alone")
        self.log_pictures, self.every_n_validations = log_pictures, every_n_validations
        self._settings: dict[str, Any] = {}
        self._validations = 0
        self._drawn_at = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validations, self._drawn_at = 0, -1
        self._settings = run_settings(trainer, pl_module)
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            for logger in trainer.loggers:
                _tell(logger, logger.log_hyperparams, {"run": self._settings})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        if self.every_n_validations is not None and self._validations % self.every_n_validations == 0:
            self._draw(trainer, pl_module, "val")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """After all callbacks have written their pages, before loggers are closed."""
        if stage not in ("fit", "test") or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if stage == "test" or self._drawn_at != trainer.global_step:
            self._draw(trainer, pl_module, "test" if stage == "test" else "val")
        step = trainer.global_step
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if not key.startswith("train/")}
        for logger, sink in self._sinks(trainer):
            if stage == "fit":
                _tell(logger, sink.outcome, flat({**pl_module.hparams, "run": self._settings}), metrics, step)
            for page in _pages(trainer) if self._takes_pictures(sink) else ():
                _tell(logger, sink.file, page, step)

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule, split: str) -> None:
        if not trainer.is_global_zero or not (sinks := list(self._sinks(trainer))):
            return
        self._drawn_at = trainer.global_step
        for section in example_sections(trainer, module, split):
            for name, figure in section.figures:
                takers = [one for one in sinks if self._takes_pictures(one[1]) or not isinstance(figure, ContactSheet)]
                drawn = png(figure) if takers else b""
                label = f"{split}/{section.title}/{name}".replace(": ", "/").replace(" ", "_").lower()
                for logger, sink in takers:
                    _tell(logger, sink.figure, label, drawn, self._drawn_at)

    def _sinks(self, trainer: pl.Trainer) -> Iterator[tuple[Logger, LoggerSink]]:
        for logger in trainer.loggers:
            if (sink := sink_of(logger)) is not None:
                yield logger, sink

    def _takes_pictures(self, sink: LoggerSink) -> bool:
        return sink.local if self.log_pictures is None else self.log_pictures


def _pages(trainer: pl.Trainer) -> list[Path]:
    """Pages that callbacks of this run have written."""
    found = [getattr(callback, "page", None) for callback in trainer.callbacks]  # type: ignore[attr-defined]
    return [page for page in found if isinstance(page, Path) and page.is_file()]


def _tell(logger: Logger, action: Callable[..., Any], *what: Any) -> None:
    """A logger that cannot be reached, or whose disk is full, does not end a training."""
    try:
        action(*what)
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("%s did not take an example of the run (%s): the run continues", type(logger).__name__, reason)
