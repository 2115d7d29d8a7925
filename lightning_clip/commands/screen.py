"""What the Trainer's commands show: the bar, the parts of the model and a table of results, in the place of Lightning's own."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import ModelSummary, ProgressBar
from rich.table import Table

from lightning_clip.callbacks import Report
from lightning_clip.callbacks.model_size import ModelSize
from lightning_clip.callbacks.progress import Progress
from lightning_clip.reporting.terminal import PlainConsole

__all__ = ["screen_callbacks", "show_results"]


def screen_callbacks(settings: Any) -> list[Any]:
    """The callbacks that a run's screen needs, unless the recipe brings its own or wants none.

    Args:
        settings: of the Trainer, callbacks built.
    """
    own = settings.get("callbacks") or []
    own = own if isinstance(own, list) else [own]
    choices = (("enable_progress_bar", ProgressBar, Progress), ("enable_model_summary", ModelSummary, ModelSize))
    return [
        made()
        for wanted, kind, made in choices
        if settings.get(wanted) is not False and not any(isinstance(callback, kind) for callback in own)
    ]


def show_results(trainer: Any, stage: str) -> None:
    """Prints what `validate` or `test` has measured, unless a report has its own table of it.

    Args:
        trainer: after the run.
        stage: "val" or "test".
    """
    if not trainer.is_global_zero or (stage == "test" and any(isinstance(one, Report) for one in trainer.callbacks)):
        return
    found = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith(f"{stage}/")}
    found = found or {key: float(value) for key, value in trainer.callback_metrics.items()}
    console = PlainConsole(highlight=False)
    if not found:
        console.print("nothing was measured: no callback and no loss has logged a value")
        return
    table = Table("metric", "value", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[0].overflow, table.columns[1].no_wrap, table.columns[1].justify = "fold", True, "right"
    for key, value in found.items():
        table.add_row(key, f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}")
    console.print(table)
