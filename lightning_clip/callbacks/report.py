"""The report of a run: what the other callbacks measured arrives, an HTML page and a table in the terminal leave."""

from __future__ import annotations

import random
import shlex
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.table import Table as TerminalTable
from torch import Tensor

from lightning_clip.callbacks.retrieval import Retrieval
from lightning_clip.callbacks.zero_shot import ZeroShotClassification
from lightning_clip.data import ClipDataModule
from lightning_clip.data.batches import PreparedPair, PreparedPairs, first_caption
from lightning_clip.data.sampler import Visit
from lightning_clip.evaluation.figures import confusion_figure, contact_sheet, curves_figure
from lightning_clip.evaluation.report import Section, Table, write_report
from lightning_clip.module import ClipModule

__all__ = ["Report"]

_DIRECTIONS = {"image_to_text": "image → text", "text_to_image": "text → image"}


class Report(pl.Callback):
    """Collects the curves of `fit`, and at its end (or that of `test`) writes a page and prints a table with chance beside.

    Args:
        path: the HTML file.
        title: its heading.

    Example:
        >>> Report("runs/mine/report.html").path.name
        'report.html'
    """

    def __init__(self, path: str = "report.html", title: str = "Training report") -> None:
        self.path, self.title = Path(path), title
        self.curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
        self._started = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._note(trainer, "train/")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._note(trainer, "val/")

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
        assert isinstance(module, ClipModule)
        table = Table(("measure", "value", "chance"), self._rows(trainer))
        command = self._classify_command(trainer)
        sections = [Section("Result", table=table)]
        if self.curves:
            sections.append(self._curves_section())
        sections += self._zero_shot_sections(trainer) + self._retrieval_section(trainer, module)
        if command:
            sections.append(Section("Classify a picture of your own", command=command))
        path = self.path if stage == "fit" else self.path.with_stem(f"{self.path.stem}_{stage}")
        seconds = time.perf_counter() - self._started if self._started else 0.0
        spent = f"{trainer.global_step} optimizer steps, {seconds / 60:.1f} minutes" if stage == "fit" else "evaluation"
        write_report(path, self.title, spent, sections)
        _print(table, path, command, self.title)

    def _rows(self, trainer: pl.Trainer) -> list[tuple[str, str, str]]:
        rows: list[tuple[str, str, str]] = []
        for callback in _of_type(trainer, ZeroShotClassification):
            for name, result in callback.results.items():
                rows.append((f"{_words(name)}: zero-shot top-1", _percent(result.metrics["top1"]), _percent(result.chance)))
                mean = result.metrics["mean_per_class"]
                rows.append((f"{_words(name)}: mean per class", _percent(mean), _percent(result.chance)))
        for callback in _of_type(trainer, Retrieval):
            if callback.result is None:
                continue
            for key, value in callback.result.metrics.items():
                direction, measure = key.split("/")
                chance = callback.result.chance.get(key)
                if "recall" in measure:
                    label = f"{_DIRECTIONS[direction]} R@{measure.split('@')[1]}"
                    rows.append((label, _percent(value), "" if chance is None else _percent(chance)))
                else:
                    rows.append(
                        (f"{_DIRECTIONS[direction]} median rank", f"{value:g}", "" if chance is None else f"{chance:g}")
                    )
        if speed := self.curves.get("train/samples_per_second"):
            rows.append(("samples per second", f"{_median([value for _, value in speed]):.0f}", ""))
        return rows

    def _curves_section(self) -> Section:
        losses = {key: curve for key, curve in self.curves.items() if key in ("train/loss", "val/loss") and curve}
        figures = [("loss", curves_figure(losses, "Loss"))] if losses else []
        top1 = {_words(key.split("/")[2]): curve for key, curve in self.curves.items() if key.endswith("/top1") and curve}
        if top1:
            figures.append(("accuracy", curves_figure(top1, "Zero-shot top-1", percent=True)))
        recall = {
            _DIRECTIONS[key.split("/")[2]]: curve for key, curve in self.curves.items() if key.endswith("recall@10") and curve
        }
        if recall:
            figures.append(("recall", curves_figure(recall, "Retrieval R@10", percent=True)))
        return Section("Curves", figures=figures)

    def _zero_shot_sections(self, trainer: pl.Trainer) -> list[Section]:
        sections = []
        for callback in _of_type(trainer, ZeroShotClassification):
            for name, result in callback.results.items():
                captions, colours = [], []
                for _, label, predicted, probability in result.examples:
                    right = label == predicted
                    truth = "" if right else f"\n(is {result.class_names[label]})"
                    captions.append(f"{result.class_names[predicted]} {100 * probability:.0f}%{truth}")
                    colours.append("good" if right else "bad")
                sheet = contact_sheet([image for image, *_ in result.examples], captions, colours)
                confusion = confusion_figure(result.confusion, result.class_names)
                text = f"{len(result.class_names)} candidate classes, top-1 {_percent(result.metrics['top1'])}."
                sections.append(Section(f"Zero-shot: {_words(name)}", text, figures=[("predictions", sheet)]))
                sections.append(Section(f"Confusion: {_words(name)}", figures=[("confusion matrix", confusion)]))
        return sections

    def _retrieval_section(self, trainer: pl.Trainer, module: ClipModule) -> list[Section]:
        data = getattr(trainer, "datamodule", None)
        sections = []
        for callback in _of_type(trainer, Retrieval):
            if callback.result is None or not isinstance(data, ClipDataModule):
                continue
            split = "test" if trainer.state.fn == "test" else "val"
            prepared = PreparedPairs(data.source(split), module.image_transform(train=False), first_caption, data.seed)
            images: list[Tensor] = []
            captions: list[str] = []
            colours: list[str] = []
            columns = 0
            for example in callback.result.examples:
                columns = 1 + len(example.found)
                for place, index in enumerate((example.own, *example.found)):
                    sample = prepared[Visit(0, index)]
                    if isinstance(sample, PreparedPair):
                        images.append(sample.image)
                        captions.append(_wrap(example.caption) if place == 0 else f"#{place}")
                        colours.append("plain" if place == 0 else "good" if index == example.own else "bad")
            if images:
                sheet = contact_sheet(images, captions, colours, columns=columns)
                text = "First column: a caption with its own image; then the images the model ranks first for the caption."
                sections.append(Section("Retrieval", text, figures=[("retrieved images", sheet)]))
        return sections

    def _classify_command(self, trainer: pl.Trainer) -> str:
        saved = getattr(trainer.checkpoint_callback, "last_model_path", "") or getattr(
            trainer.checkpoint_callback, "best_model_path", ""
        )
        if not saved:
            return ""
        names = [n for c in _of_type(trainer, ZeroShotClassification) for r in c.results.values() for n in r.class_names]
        some = random.Random(0).sample(sorted(set(names)), min(3, len(set(names)))) or ["a dog", "a child", "a boat"]
        try:
            saved = str(Path(saved).relative_to(Path.cwd()))
        except ValueError:
            pass
        program = Path(sys.argv[0])
        local = program.name == "lightning-clip" and (Path.cwd() / ".venv").is_dir() and ".venv" in program.parts
        name = ".venv/bin/lightning-clip" if local else "lightning-clip"
        return f"{name} classify picture.jpg --labels {shlex.quote(','.join(some))} --checkpoint {shlex.quote(saved)}"


def _of_type(trainer: pl.Trainer, kind: type[Any]) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def _print(table: Table, path: Path, command: str, title: str) -> None:
    console = Console()
    terminal = TerminalTable(title=title, title_style="bold")
    for number, name in enumerate(table.header):
        terminal.add_column(name, justify="left" if number == 0 else "right")
    for row in table.rows:
        terminal.add_row(*row)
    console.print(terminal)
    console.print(f"report: {path}", soft_wrap=True)
    if command:
        console.print(f"classify a picture of your own:\n  {command}", soft_wrap=True, highlight=False)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _wrap(caption: str, width: int = 24) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(caption, width)[:3])
