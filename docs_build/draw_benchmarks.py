"""Pictures of docs/benchmarks.md, drawn from its tables into docs/images: `python docs_build/draw_benchmarks.py`.

Each picture carries a digest of the figures that it shows, by which a test knows that the tables have not changed since.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/benchmarks.md"
IMAGES = ROOT / "docs/images"
OURS, THEIRS, GREY = "#3f51b5", "#b0b7c3", "#6b7280"
VARIANTS = {"open_clip": "#cbd0d8", "open_clip, compiled": "#9aa3b2", "here": "#8c9eff", "here, compiled": OURS}

# (section, row, what the picture calls it) of the page's tables whose last column says how many times faster.
SPEED = [
    ("text_tower", "training, 64 captions, open_clip at context 77", "text tower, training, open_clip at 77 tokens"),
    ("text_tower", "training, 64 captions, open_clip at context 32", "text tower, training, open_clip at 32 tokens"),
    ("training_step", "64 pairs, open_clip at context 77", "whole step, 64 pairs, open_clip at 77 tokens"),
    ("training_step", "64 pairs, open_clip at context 32", "whole step, 64 pairs, open_clip at 32 tokens"),
    ("losses", "softmax, 16,384 pairs, tiled", "softmax loss and gradient, 16,384 pairs"),
    ("losses", "sigmoid, 16,384 pairs, tiled", "sigmoid loss and gradient, 16,384 pairs"),
    ("loading", "512 x 384 (55 kB) to 224, samples/s, uint8 out, scaled_decoding 2", "tar to batch, 512 x 384 to 224"),
    ("loading", "1024 x 768 (190 kB) to 224, samples/s, uint8 out, scaled_decoding 1.25", "tar to batch, 1024 x 768 to 224"),
    ("tokenizer", "captions/s, fresh tokenizer", "tokenizer, fresh"),
]
MEMORY = [
    "softmax, 4,096 pairs, tiled",
    "sigmoid, 4,096 pairs, tiled",
    "softmax, 16,384 pairs, tiled",
    "sigmoid, 16,384 pairs, tiled",
]


def table(section: str) -> list[list[str]]:
    """Rows of a section's table.

    Args:
        section: its name in the page's comments, such as "losses".

    Returns:
        Cells of each row below the header; several tables follow each other.
    """
    text = PAGE.read_text(encoding="utf-8")
    body = text.partition(f"<!-- begin: {section} -->")[2].partition(f"<!-- end: {section} -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    return [row for row in rows[1:] if not set(row[0]) <= set("-: ") or row[0] == ""]


def row_of(section: str, name: str) -> list[str]:
    """The one row of that name.

    Raises:
        KeyError: the table has no such row.
    """
    for row in table(section):
        if row[0] == name:
            return row
    raise KeyError(f"section {section} of docs/benchmarks.md has no row {name!r}")


def number(text: str) -> float:
    """The first number of a cell: "11,683" is 11683.0, "1.85x faster" 1.85."""
    return float(re.findall(r"\d[\d,]*\.?\d*", text)[0].replace(",", ""))


def speed() -> dict[str, float]:
    """How many times faster, by what is measured."""
    return {label: number(row_of(section, name)[-1]) for section, name, label in SPEED}


def memory() -> dict[str, tuple[float, float]]:
    """MiB of open_clip's loss and of ours."""
    cells = {name: row_of("losses", name) for name in MEMORY}
    return {
        name.removesuffix(", tiled"): (number(row[1].split("s,")[1]), number(row[2].split("s,")[1]))
        for name, row in cells.items()
    }


def gpu() -> dict[str, dict[str, float]]:
    """Samples a second of each variant, by model."""
    found: dict[str, dict[str, float]] = {}
    for model, variant, samples, *_ in table("gpu_steps"):
        found.setdefault(model, {})[variant] = number(samples)
    return found


def _figure(height: float, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=12)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    return figure, axes


def draw_speed(values: dict[str, float]) -> Figure:
    """Bars of ratios, from the largest; a line at 1, where both are as fast."""
    figure, axes = _figure(4.2, "Times faster than open_clip on one CPU thread, float32")
    ordered = sorted(values.items(), key=lambda item: item[1])
    bars = axes.barh([label for label, _ in ordered], [value for _, value in ordered], color=OURS, height=0.62)
    axes.bar_label(bars, [f"{value:.1f}x" for _, value in ordered], padding=4)
    axes.axvline(1, color=GREY, linewidth=1.2, linestyle=":")
    axes.set_xlim(0, max(values.values()) * 1.1)
    return figure


def draw_memory(values: dict[str, tuple[float, float]]) -> Figure:
    """Two bars for each loss, on a logarithmic axis."""
    figure, axes = _figure(3.2, "Memory of loss and gradient over their inputs, MiB, logarithmic")
    for offset, name, colour, which in ((-0.2, "open_clip", THEIRS, 0), (0.2, "lightning_clip", OURS, 1)):
        sizes = [pair[which] for pair in values.values()]
        bars = axes.barh([place + offset for place in range(len(values))], sizes, height=0.36, color=colour, label=name)
        axes.bar_label(bars, [f"{size:,.0f}" for size in sizes], padding=4)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(8, max(map(max, values.values())) * 3)
    axes.legend(frameon=False, loc="upper right")
    return figure


def draw_gpu(values: dict[str, dict[str, float]]) -> Figure:
    """Shares of the fastest variant of each model, with samples a second written beside them."""
    figure, axes = _figure(4.4, "Training steps on one H200, bfloat16: samples a second")
    place, places = 0.0, []
    for variants in values.values():
        places.append(place + 0.22 * (len(variants) - 1) / 2)
        fastest = max(variants.values())
        for variant in (name for name in VARIANTS if name in variants):
            bars = axes.barh([place], [variants[variant] / fastest], height=0.2, color=VARIANTS[variant])
            axes.bar_label(bars, [f"{variants[variant]:,.0f}  {variant}"], padding=4, fontsize=9)
            place += 0.22
        place += 0.24
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set_xlim(0, 1.35)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return figure


PICTURES: dict[str, tuple[Callable[[], dict], Callable[[dict], Figure]]] = {
    "benchmarks_speed.png": (speed, draw_speed),
    "benchmarks_memory.png": (memory, draw_memory),
    "benchmarks_gpu.png": (gpu, draw_gpu),
}


def digest(values: object) -> str:
    """A short name for the figures of a picture.

    Args:
        values: what it shows, as JSON can hold it.
    """
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def main(folder: Path = IMAGES) -> None:
    """Draws all pictures.

    Args:
        folder: where they go.
    """
    for name, (read, draw) in PICTURES.items():
        values = read()
        draw(values).savefig(folder / name, dpi=130, metadata={"Description": digest(values), "Software": None})
        print(folder / name)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
