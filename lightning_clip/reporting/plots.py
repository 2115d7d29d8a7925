"""Matplotlib figures of a run: curves, confusion matrices, contact sheets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from torch import Tensor

from lightning_clip.core.atomic import beside

__all__ = ["confusion_figure", "contact_sheet", "curves_figure", "save_figure"]

Curve = Sequence[tuple[int, float]]
_GREEN, _RED, _GREY = "#2e8b57", "#c0392b", "#8a8f98"
_WIDE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "PingFang SC",
    "Microsoft YaHei",
)


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


def contact_sheet(
    images: Sequence[Tensor | Any], captions: Sequence[str], colours: Sequence[str] | None = None, columns: int = 8
) -> Figure:
    """Images with a line of text under each.

    Args:
        images: uint8 (3, H, W).
        captions: one per image.
        colours: of the captions: "good", "bad" or "plain".
        columns: images per row.
    """
    palette = {"good": _GREEN, "bad": _RED, "plain": "black"}
    rows = max(1, -(-len(images) // columns))
    fonts = _fonts()
    figure = Figure(figsize=(1.45 * columns, 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for number, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if number < len(images):
            axes.imshow(np.asarray(images[number]).transpose(1, 2, 0), interpolation="nearest")
            colour = palette[colours[number] if colours else "plain"]
            axes.set_title(captions[number], fontsize=6.5, color=colour, y=0, pad=-3, va="top", fontfamily=fonts)
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
    size = min(9.0, 2.5 + 0.22 * len(answered))
    figure = Figure(figsize=(size, 1.2 + size * max(0.3, len(present) / max(1, len(answered)))), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100, aspect="equal")
    axes.set(xlabel="predicted", ylabel="true")
    if len(answered) <= most:
        names = [class_names[i] for i in answered]
        axes.set_xticks(range(len(answered)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(present)), [class_names[i] for i in present], fontsize=7)
    figure.colorbar(image, ax=axes, shrink=0.7, label="% of the true class")
    return figure


def _fonts() -> list[str]:
    """Matplotlib's own font, then those installed here that have Chinese, Japanese or Korean letters."""
    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _WIDE_FONTS if name in installed)]


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure beside its place, then moves it there.

    Args:
        figure: to write.
        path: its extension chooses the format.
    """
    with beside(path) as place:
        figure.savefig(place, dpi=110)
