"""Matplotlib figures of a run: curves and confusion matrices; any figure as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.reporting.drawing import DPI, drawable
from lightning_clip.reporting.letters import literal

__all__ = ["confusion_figure", "curves_figure", "save_figure"]

Curve = Sequence[tuple[int, float]]
_GREY = "#8a8f98"


def curves_figure(curves: Mapping[str, Curve], title: str, *, percent: bool = False, chance: float | None = None) -> Figure:
    """Lines over optimizer steps.

    Args:
        curves: label -> (step, value) in order.
        title: above the axes.
        percent: the values are shares in [0, 1], drawn as percentages from 0.
        chance: drawn as a dotted line.
    """
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    factor = 100 if percent else 1
    for label, curve in curves.items():
        steps, values = zip(*curve, strict=True)
        marker = "o" if len(curve) < 40 else None
        axes.plot(steps, [value * factor for value in values], label=label, marker=marker, markersize=3, linewidth=1.6)
    if chance is not None:
        axes.axhline(chance * factor, color=_GREY, linestyle=":", label="chance")
    if percent:
        axes.set_ylim(bottom=0)
    axes.set(title=title, xlabel="optimizer step", ylabel="%" if percent else "")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    if len(curves) + (chance is not None) > 1:
        axes.legend(fontsize=8, frameon=False)
    return figure


def confusion_figure(confusion: Tensor, class_names: Sequence[str], most: int = 40) -> Figure:
    """Share of each true class (rows) that got each answer (columns); only classes that occur have a row.

    Args:
        confusion: int (C, C) counts.
        class_names: C names.
        most: with more classes than this the names are omitted.
    """
    counts = confusion.numpy().astype(float)
    present: list[int] = np.flatnonzero(counts.sum(axis=1)).tolist()
    answered: list[int] = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1)).tolist()
    shares = (counts / np.maximum(1, counts.sum(axis=1, keepdims=True)))[np.ix_(present, answered)]
    named = len(answered) <= most
    side = min(6.0, max(2.4, 0.24 * len(answered)))  # inches of the matrix alone
    tall = side * min(1.0, max(0.3, len(present) / max(1, len(answered))))
    edge = 0.35 + (0.075 * max(len(class_names[i]) for i in answered) if named and answered else 0.0)  # for the names
    figure = Figure(figsize=(side + min(edge, 2.2) + 1.1, tall + min(edge, 2.2) + 0.35), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="equal" if side > tall else "auto")
    axes.set(xlabel="predicted", ylabel="true")
    if named:
        names = [literal(class_names[i]) for i in answered]
        axes.set_xticks(range(len(answered)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(present)), [literal(class_names[i]) for i in present], fontsize=7)
    figure.colorbar(image, ax=axes, label="% of the true class")
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure beside its place, then moves it there.

    Args:
        figure: to write.
        path: its extension chooses the format.

    Raises:
        InputError: no extension that stands for a format of pictures, or a folder.
    """
    kind, known = Path(path).suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known or Path(path).is_dir():
        raise InputError(f"{str(path)!r} is no file for a picture: give one that ends in .png, .svg or .pdf")
    with beside(path) as place, drawable(figure):
        figure.savefig(place, dpi=DPI)
