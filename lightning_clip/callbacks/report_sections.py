"""Sections, rows and lines of text that a report has of each callback's results and of the curves."""

from __future__ import annotations

import random
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.callbacks.retrieval import Retrieval, RetrievalResult
from lightning_clip.callbacks.zero_shot import ZeroShotClassification, ZeroShotResult
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.plots import confusion_figure, curves_figure
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import percent, spaced, wrapped

__all__ = [
    "class_table",
    "classify_command",
    "curve_figures",
    "progress_line",
    "result_rows",
    "zero_shot_sections",
]

Curves = Mapping[str, Sequence[tuple[int, float]]]


def _direction(key: str) -> str:
    """Of a key, such as "text_to_image": "text → image"."""
    return " → ".join(key.split("_to_"))


def _curve_name(key: str) -> str:
    """What a curve is called beside others of its figure.

    The callbacks log "val/zero_shot/SET/top1", "val/classification/top1" and "val/retrieval/DIRECTION/recall@10", evaluation
    suites "val/PROTOCOL/SET/top1" and "val/retrieval/SET/DIRECTION/recall@10".
    """
    protocol, *names = key.split("/")[1:-1]
    named = [_direction(name) if "_to_" in name else spaced(name) for name in names]
    return ": ".join(named if protocol in ("zero_shot", "retrieval") else [spaced(protocol), *named])


def progress_line(metrics: Mapping[str, Tensor]) -> str:
    """The figures that one looks at while it trains, in one line.

    Args:
        metrics: logged values by key, each ().
    """
    parts = [f"loss {metrics['val/loss']:.2f}"] if "val/loss" in metrics else []
    for key, value in metrics.items():
        if key.startswith("val/zero_shot/") and key.endswith("/top1"):
            parts.append(f"{spaced(key.split('/')[2])} top-1 {percent(float(value))}")
        if key.startswith("val/retrieval/text_to_") and key.endswith("/recall@10") and key.count("/") == 3:
            parts.append(f"{_curve_name(key)} R@10 {percent(float(value))}")
    return ", ".join(parts)


def result_rows(
    zero_shot: Sequence[ZeroShotClassification], retrieval: Sequence[Retrieval], curves: Curves
) -> list[tuple[str, str, str]]:
    """Measure, value and chance of everything that was evaluated last.

    Args:
        zero_shot: callbacks with their results.
        retrieval: likewise.
        curves: key -> (step, value) in order; the speed is taken from them.
    """
    rows = [
        (f"{spaced(name)}: {label}", percent(result.metrics[key]), percent(result.chance))
        for callback in zero_shot
        for name, result in callback.results.items()
        for key, label in (("top1", "zero-shot top-1"), ("mean_per_class", "mean per class"))
    ]
    rows += [row for callback in retrieval if callback.result for row in _retrieval_rows(callback.result)]
    if not rows and (losses := curves.get("val/loss") or curves.get("train/loss")):
        rows.append(("loss of the last batch" if not curves.get("val/loss") else "validation loss", f"{losses[-1][1]:.3f}", ""))
    if speed := curves.get("train/samples_per_second"):
        rows.append(("samples per second", f"{statistics.median(value for _, value in speed):.0f}", ""))
    return rows


def _retrieval_rows(result: RetrievalResult) -> list[tuple[str, str, str]]:
    rows = []
    for key, value in result.metrics.items():
        direction, measure = key.split("/")
        name, _, k = measure.partition("@")
        label = f"{_direction(direction)} " + (f"R@{k}" if k else spaced(name))
        chance = result.chance.get(key)
        rows.append((label, percent(value) if k else f"{value:g}", "" if chance is None else percent(chance)))
    return rows


def curve_figures(curves: Curves) -> list[tuple[str, Figure]]:
    """Loss, zero-shot accuracy and recall over the optimizer steps, of what there is, each with its name.

    Args:
        curves: key -> (step, value) in order.
    """
    drawn = {key: curve for key, curve in curves.items() if curve}
    losses = {key: curve for key, curve in drawn.items() if key in ("train/loss", "val/loss")}
    top1, recall = (
        {_curve_name(key): curve for key, curve in drawn.items() if key.endswith(ending)} for ending in ("/top1", "/recall@10")
    )
    figures: list[tuple[str, Figure]] = [("loss", curves_figure(losses, "Loss"))] if losses else []
    for name, of_name, title in (("accuracy", top1, "Zero-shot top-1"), ("recall", recall, "Retrieval R@10")):
        if of_name:
            figures.append((name, curves_figure(of_name, title, percent=True)))
    return figures


def zero_shot_sections(callbacks: Sequence[ZeroShotClassification]) -> list[Section]:
    """Accuracy by class, a confusion matrix and images with predictions for each set.

    Args:
        callbacks: whose results are shown.
    """
    sections = []
    for name, result in ((name, result) for callback in callbacks for name, result in callback.results.items()):
        captions, colours = [], []
        for _, label, predicted, probability in result.examples:
            truth = "" if label == predicted else "\n" + wrapped(f"(is {result.class_names[label]})")
            captions.append(wrapped(f"{result.class_names[predicted]} {100 * probability:.0f} %") + truth)
            colours.append("good" if label == predicted else "bad")
        sheet = contact_sheet([image for image, *_ in result.examples], captions, colours)
        confusion = confusion_figure(result.confusion, result.class_names)
        text = f"{len(result.class_names)} candidate classes, top-1 {percent(result.metrics['top1'])}."
        figures = [("confusion matrix", confusion), ("predictions", sheet)]
        sections.append(Section(f"Zero-shot: {spaced(name)}", text, class_table(result), figures))
    return sections


def class_table(result: ZeroShotResult) -> Table:
    """For each class that occurs: its images, the share named rightly, and what it was most often taken for.

    Args:
        result: of one set.
    """
    rows = []
    for true, counts in enumerate(result.confusion.tolist()):
        if total := sum(counts):
            wrong = [0 if answer == true else count for answer, count in enumerate(counts)]
            most = max(wrong)
            taken = f"{result.class_names[wrong.index(most)]} ({percent(most / total, 0)})" if most else ""
            rows.append((result.class_names[true], f"{total:,}", percent(counts[true] / total), taken))
    return Table(("class", "images", "right", "most often taken for"), rows)


def classify_command(
    checkpoint: Any, zero_shot: Sequence[ZeroShotClassification], pictures: Sequence[tuple[Path, str]] = ()
) -> str:
    """The command that classifies a picture with the checkpoint just saved, or "" if none was.

    Args:
        checkpoint: the Trainer's checkpoint callback, or None.
        zero_shot: callbacks whose class names serve as an example.
        pictures: path and class of pictures to try it on; the first is taken.
    """
    saved = (checkpoint.last_model_path or checkpoint.best_model_path) if isinstance(checkpoint, ModelCheckpoint) else ""
    if not saved:
        return ""
    names = sorted({name for callback in zero_shot for result in callback.results.values() for name in result.class_names})
    labels = random.Random(0).sample(names, min(3, len(names))) or ["a dog", "a child", "a boat"]
    picture_path, shown = pictures[0] if pictures else ("picture.jpg", labels[0])
    labels = [shown, *(label for label in labels if label != shown)][: len(labels)]
    program = sys.argv[0] if Path(sys.argv[0]).name == "lightning-clip" else "lightning-clip"
    words = [_from_here(program), "classify", _from_here(str(picture_path)), "--labels", ",".join(labels)]
    return shlex.join([*words, "--checkpoint", _from_here(saved)])


def _from_here(path: str) -> str:
    here = str(Path.cwd()) + "/"
    return path.removeprefix(here)
