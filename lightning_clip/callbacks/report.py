"""`Report`: an HTML page and a table in the terminal of what the other callbacks measured."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.table import Table as TerminalTable

from lightning_clip.callbacks.example_pictures import save_pictures
from lightning_clip.callbacks.example_sections import example_sections
from lightning_clip.callbacks.relevance_section import relevance_sections
from lightning_clip.callbacks.report_sections import (
    classify_command,
    curve_figures,
    progress_line,
    result_rows,
)
from lightning_clip.callbacks.retrieval import Retrieval
from lightning_clip.callbacks.zero_shot import ZeroShotClassification
from lightning_clip.core.plain_text import showable
from lightning_clip.reporting.html import Section, Table, write_report
from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["Report"]


class Report(pl.Callback):
    """Collects the curves of `fit` and prints a line at each validation; at the end it writes a page and prints a table.

    The page has the figures with chance beside them, the curves, predictions, confusion matrices, retrieved images, and
    where the model looks in a few of them. After
    `test` a page of its own is written, NAME_test.html.

    Args:
        path: the HTML file.
        title: its heading.
        pictures: of the first zero-shot set that are left beside the page, in a folder `pictures`, to be classified.

    Attributes:
        page: the page that was written last.

    Examples:
        >>> Report("runs/mine/report.html").path.name
        'report.html'
    """

    def __init__(self, path: str = "report.html", title: str = "Training report", pictures: int = 0) -> None:
        self.path, self.title, self.pictures = Path(path), title, pictures
        self.curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self.page: Path | None = None
        self._started = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._note(trainer, "train/")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._note(trainer, "val/")
        if line := progress_line(trainer.callback_metrics):
            pl_module.print(showable(f"step {trainer.global_step}: {line}", getattr(sys.stdout, "encoding", None) or "utf-8"))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(trainer, pl_module, "fit")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(trainer, pl_module, "test")

    def state_dict(self) -> dict[str, Any]:
        return {"curves": dict(self.curves)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curves.update(state_dict["curves"])

    def _note(self, trainer: pl.Trainer, prefix: str) -> None:
        for key, value in trainer.callback_metrics.items():
            curve = self.curves[key]
            if (
                key.startswith(prefix)
                and not key.endswith(("_step", "_epoch"))
                and (not curve or curve[-1][0] != trainer.global_step)
            ):
                curve.append((trainer.global_step, float(value)))

    def _finish(self, trainer: pl.Trainer, module: pl.LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        zero_shot = [callback for callback in callbacks if isinstance(callback, ZeroShotClassification)]
        retrieval = [callback for callback in callbacks if isinstance(callback, Retrieval) and callback.result]
        table = Table(("measure", "value", "chance"), result_rows(zero_shot, retrieval, self.curves if stage == "fit" else {}))
        figures, measured = curve_figures(self.curves), table if table.rows else None
        sections = [Section("Result", table=measured, figures=figures)] if measured or figures else []
        sections += example_sections(trainer, module, "test" if stage == "test" else "val")
        sections += relevance_sections(trainer, module, zero_shot)
        pictures = save_pictures(self.path.parent / "pictures", zero_shot, self.pictures)
        command = classify_command(trainer.checkpoint_callback, zero_shot, pictures)
        if command:
            sections.append(Section("Classify a picture", command=command))
        path = self.path if stage == "fit" else self.path.with_stem(f"{self.path.stem}_{stage}")
        write_report(path, self.title, self._spent(trainer, stage), sections)
        self.page = path
        _print(table, path, command, self.title)

    def _spent(self, trainer: pl.Trainer, stage: str) -> str:
        if stage != "fit":
            return "evaluation"
        seconds = time.perf_counter() - self._started if self._started else 0.0
        return f"{trainer.global_step} optimizer steps, {seconds / 60:.1f} minutes"


def _print(table: Table, path: Path, command: str, title: str) -> None:
    console = PlainConsole()
    terminal = TerminalTable(title=title, title_style="bold")
    for number, name in enumerate(table.header):
        terminal.add_column(name, justify="left" if number == 0 else "right")
    for row in table.rows:
        terminal.add_row(*row)
    console.print(terminal if table.rows else "nothing was evaluated: there was no validation before the run's end")
    console.print(f"report: {path}", soft_wrap=True)
    if command:
        console.print(
            f"classify a picture:\n  {command}",
            soft_wrap=True,
            highlight=False,
        )
