"""The page of a curation: what was dropped and why, with pictures; and the same counts as JSON."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.curation.curate import Curation, examples
from lightning_clip.data.decoding import decode
from lightning_clip.reporting.html import Section, Table, write_report
from lightning_clip.reporting.sheets import contact_sheet

__all__ = ["summary_rows", "write_curation_report"]

_SHOWN = 16


def write_curation_report(result: Curation, folder: Path, title: str, most: int | None = None) -> Path:
    """Writes report.html and report.json.

    Args:
        result: what `curate` found.
        folder: where to.
        title: under the heading.
        most: pairs that an entry may bring in, drawn as a line.

    Returns:
        The page.
    """
    sections = [
        Section("What stays", table=Table(("step", "pairs dropped", "share", "left"), summary_rows(result))),
        Section("Kept", "Some of the pairs that stay.", figures=_sheet(result, "")),
    ]
    if result.entries:
        sections.insert(1, _entries(result, most))
    sections += [_dropped(result, reason, count) for reason, count in result.drops.items()]
    record = {
        "pairs": len(result.reason),
        "kept": len(result.kept),
        "dropped": dict(result.drops),
        "entries": {name: [int(a), int(b)] for name, a, b in zip(result.entries, result.before, result.after, strict=True)},
    }
    with beside(folder / "report.json") as place:
        place.write_text(json.dumps(record, ensure_ascii=False, indent=1), encoding="utf-8")
    page = folder / "report.html"
    write_report(page, "Curation", title, sections)
    return page


def summary_rows(result: Curation) -> list[tuple[str, str, str, str]]:
    """Each step with the pairs it dropped, their share of all, and what is left."""
    total = left = len(result.reason)
    rows = [("given", "", "", f"{total:,}")]
    for reason, count in result.drops.items():
        left -= count
        rows.append((reason, f"{count:,}", f"{count / total:.1%}", f"{left:,}"))
    return rows


def _dropped(result: Curation, reason: str, count: int) -> Section:
    places = examples(result, reason, _SHOWN // 2)
    if (result.twin[places] >= 0).all():
        both = [place for index in places for place in (index, int(result.twin[index]))]
        text = f"{count:,} pairs; each with the picture that stays in its place, to its right."
        return Section(f"Dropped: {reason}", text, figures=_sheet_of(result, both, reason))
    return Section(f"Dropped: {reason}", f"{count:,} pairs, some of them:", figures=_sheet(result, reason))


def _sheet(result: Curation, reason: str) -> list[tuple[str, Figure]]:
    return _sheet_of(result, examples(result, reason, _SHOWN), reason or "kept")


def _sheet_of(result: Curation, places: Any, name: str) -> list[tuple[str, Figure]]:
    pictures, texts = [], []
    for place in places:
        if (shown := _shown(result, place)) is not None:
            pictures.append(shown[0])
            texts.append(shown[1])
    return [(name, contact_sheet(pictures, texts))] if pictures else []


def _shown(result: Curation, place: int) -> tuple[Tensor, str] | None:
    try:
        pair = result.source[place]
        pixels = decode(pair.image)
    except (OSError, ValueError, KeyError):
        return None
    score = "" if np.isnan(result.score[place]) else f"{result.score[place]:.2f} "
    return pixels, "\n".join(textwrap.wrap(score + " | ".join(pair.captions), 26)[:3])


def _entries(result: Curation, most: int | None) -> Section:
    order = np.argsort(-result.before, kind="stable")
    rows = [
        (result.entries[number], f"{result.before[number]:,}", f"{result.after[number]:,}") for number in order[:15].tolist()
    ]
    unmet = int((result.before == 0).sum())
    text = f"{len(result.entries):,} entries, {unmet:,} of them in no pair. The most frequent ones, before and after balancing:"
    header = ("entry", "before", "after")
    return Section("Entries", text, Table(header, rows), figures=[("pairs per entry", _curve(result, order, most))])


def _curve(result: Curation, order: np.ndarray, most: int | None) -> Figure:
    """Pairs per entry, entries sorted by their count before; both axes logarithmic."""
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    ranks = np.arange(1, len(order) + 1)
    axes.plot(ranks, result.before[order], label="before", color="#8a8f98", linewidth=1.6)
    axes.plot(ranks, np.sort(result.after)[::-1], label="after", color="#2e8b57", linewidth=1.6)
    if most is not None:
        axes.axhline(most, color="#c0392b", linestyle=":", label=f"{most:,} per entry")
    axes.set(xscale="log", yscale="log", xlabel="entries, most frequent first", ylabel="pairs", title="pairs per entry")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
