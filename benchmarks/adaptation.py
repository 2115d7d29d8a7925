"""Ways to adapt a small model to CIFAR-10 with 1 to 16 labelled photographs of each class, and with all: one table, two plots.

Several draws of the photographs tell how much of a difference is luck: the table has their mean and standard deviation.

The model is pretrained on product photographs by recipes/fashion_small.yaml, if `--start` is not there yet; the rest are
the recipes in recipes/adapt/. What is measured already (`runs/adapt/results.json`) is not measured again, so that a run
can be interrupted or a method added. Needs `LIGHTNING_CLIP_DATA`.

    python benchmarks/adaptation.py
    python benchmarks/adaptation.py --methods lora
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from report import processor

from lightning_clip import ClipModule
from lightning_clip.cli import main as lightning_clip
from lightning_clip.core.atomic import beside
from lightning_clip.data import FewShotSource, TableSource
from lightning_clip.evaluation.extraction import local_features
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.models import open_model
from lightning_clip.evaluation.probe import fit_probe, search_strength
from lightning_clip.merging.interpolation import curve_figure, sweep
from lightning_clip.merging.model_score import accuracy, read_sets
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.plots import save_figure

ROOT = Path(__file__).resolve().parent.parent
SHOTS = (1, 2, 4, 8, 16, None)  # None: all
STEPS, STEPS_WITH_ALL = 80, 300
TITLES = {
    "zero_shot": "zero-shot",
    "probe": "linear probe",
    "tip_adapter": "Tip-Adapter-F",
    "coop": "CoOp, 8 vectors",
    "clip_adapter": "CLIP-Adapter",
    "head": "head begun as zero-shot, with the tower",
    "lora": "LoRA, FLYP's loss",
    "flyp": "FLYP",
    "wise_ft": "WiSE-FT of FLYP",
}
CHANGING = ("flyp", "lora", "wise_ft", "head")  # where towers change, accuracy on the products is taken, too


class Draw(NamedTuple):
    """Which labelled photographs: so many a class, None for all, by this seed."""

    shots: int | None
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.shots or 'all'}/{self.seed}"


class Results:
    """Accuracies by method and draw, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}

    def measure(self, method: str, draw: Draw, make: Callable[[], dict[str, float]]) -> None:
        """Asks `make` unless the figures are there."""
        own, key = self.values.setdefault(method, {}), str(draw)
        if key in own:
            return
        began = time.perf_counter()
        own[key] = {**make(), "seconds": time.perf_counter() - began}
        print(f"{method}, {key}: " + ", ".join(f"{name} {value:.3f}" for name, value in own[key].items()), flush=True)
        with beside(self.path) as file:
            file.write_text(json.dumps(self.values, indent=1))

    def of(self, method: str, shots: int | None, name: str) -> list[float]:
        """A figure in percent, of each draw that was measured."""
        own = self.values.get(method, {})
        return [100 * entry[name] for key, entry in own.items() if key.startswith(f"{shots or 'all'}/") and name in entry]


def main() -> None:
    """Measures what is missing, writes table and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default=",".join(TITLES), help="with commas (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the photographs (default: %(default)s)")
    parser.add_argument("--start", default="runs/fashion_small/last.ckpt", help="checkpoint to adapt (default: %(default)s)")
    parser.add_argument("--output", default="runs/adapt", help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    folder = os.environ.get("LIGHTNING_CLIP_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit("benchmarks/adaptation.py: LIGHTNING_CLIP_DATA does not name the folder of real pairs")
    if not Path(arguments.start).exists():
        run("fit", "--config", f"{ROOT}/recipes/fashion_small.yaml")
    os.environ["LIGHTNING_CLIP_BASE"] = arguments.start
    output, results = Path(arguments.output), Results(Path(arguments.output) / "results.json")
    sets = read_sets(f"{ROOT}/recipes/evaluation/adapt_cifar10.yaml")
    start = ClipModule.load_from_checkpoint(arguments.start)
    # All photographs are one draw: only which fifth is held out could differ.
    draws = [Draw(shots, seed) for shots in SHOTS for seed in range(1 if shots is None else arguments.seeds)]
    for method in arguments.methods.split(","):
        if method == "zero_shot":
            results.measure(method, Draw(None), lambda: scores(start, sets, reference=True))
        elif method == "probe":
            probes(results, arguments.start, folder, draws, sets)
        else:
            for draw in draws:
                if method == "wise_ft":
                    results.measure(method, draw, lambda draw=draw: wise_ft(start, output, folder, draw, sets))
                else:
                    results.measure(method, draw, lambda method=method, draw=draw: trained(method, draw, output, sets))
    write(results, output)


def run(*arguments: str) -> None:
    """A command of ours, in this process."""
    if lightning_clip(arguments):
        sys.exit(f"benchmarks/adaptation.py: lightning-clip {' '.join(arguments)} failed")


def place(output: Path, method: str, draw: Draw) -> Path:
    """Where a run leaves its checkpoint."""
    return output / method / str(draw)


def scores(module: ClipModule, sets: dict[str, EvaluationSet], reference: bool) -> dict[str, float]:
    """Accuracy on CIFAR-10's test photographs, and on the products."""
    return {name: accuracy(module, sets[name]) for name in ("cifar10", "article_type")[: 1 + reference]}


def trained(method: str, draw: Draw, output: Path, sets: dict[str, EvaluationSet]) -> dict[str, float]:
    """Trains by a recipe and scores what it left."""
    folder, images = place(output, method, draw), 10 * (draw.shots or 2000)
    run(
        "fit",
        *("--config", f"{ROOT}/recipes/adapt/cifar10.yaml", "--config", f"{ROOT}/recipes/adapt/{method}.yaml"),
        *(f"--data.{split}.shots={draw.shots or 'null'}" for split in ("train", "val")),
        *(f"--data.{split}.seed={draw.seed}" for split in ("train", "val")),
        f"--data.local_batch_size={min(64, images)}",
        f"--trainer.max_steps={STEPS_WITH_ALL if draw.shots is None else STEPS}",
        f"--trainer.default_root_dir={folder}",
        *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"),
    )
    return scores(ClipModule.load_from_checkpoint(folder / "last.ckpt"), sets, reference=method in CHANGING)


def wise_ft(start: ClipModule, output: Path, folder: str, draw: Draw, sets: dict[str, EvaluationSet]) -> dict[str, float]:
    """Between the start and FLYP's end; alpha chosen on labelled images beside the training ones."""
    end = ClipModule.load_from_checkpoint(place(output, "flyp", draw) / "last.ckpt")
    val = sets["cifar10_val"]
    if draw.shots is not None:
        held_out = FewShotSource(labelled(folder), draw.shots, draw.seed, held_out=True)
        val = EvaluationSet(held_out, val.class_names, val.templates)
    shown = {"validation": val, **({name: sets[name] for name in ("cifar10", "article_type")} if draw.shots is None else {})}
    curve, mixed = sweep(start, end, shown, "validation")
    if draw.shots is None:
        save_figure(curve_figure(curve), ROOT / "docs/images/adapt_cifar10_wise_ft.png")
    return {**scores(mixed, sets, reference=True), "alpha": curve.alphas[curve.best]}


def labelled(folder: str) -> TableSource:
    """CIFAR-10's training photographs."""
    table = f"{folder}/cifar10/labels.csv"
    return TableSource(table, "images.tar", caption_column=None, label_column="label", where={"split": "train"})


def probes(results: Results, start: str, folder: str, draws: Sequence[Draw], sets: dict[str, EvaluationSet]) -> None:
    """Logistic regression on features before the projection, as the few-shot protocol of `evaluate` has it."""
    if all(str(draw) in results.values.get("probe", {}) for draw in draws):
        return
    model, source = open_model(start), labelled(folder)
    train, test = (local_features(model, Images(part, model.transform()), 256) for part in (source, sets["cifar10"].source))
    for draw in draws:
        few = (FewShotSource(source, *draw, held_out=held) for held in (False, True))
        rows, held = (torch.from_numpy(found.indices.copy()) for found in few)
        results.measure("probe", draw, lambda rows=rows, held=held: probed(train.subset(rows), train.subset(held), test))


def probed(few: Features, held: Features, test: Features) -> dict[str, float]:
    """Strength by the held-out images, accuracy on the test photographs."""
    found = search_strength(
        lambda strength, begun: fit_probe(few.backbone, few.label, 10, strength, start=begun, max_iterations=100),
        lambda probe: float((probe.predict(held.backbone) == held.label).double().mean()),
        steps_per_decade=1,
    )
    return {"cifar10": float((found.probe.predict(test.backbone) == test.label).double().mean())}


def write(results: Results, output: Path) -> None:
    """The table as Markdown, and the plot over the number of labelled images."""
    keys = [str(shots or "all") for shots in SHOTS]
    lines = ["| top-1 in % | " + " | ".join(key if key == "all" else f"{key} a class" for key in keys) + " |"]
    lines.append("|---" * (len(keys) + 1) + "|")
    lines += [_row(title, method, "cifar10", results) for method, title in TITLES.items()]
    changed = [method for method in CHANGING if method in results.values]
    lines += [_row(f"*products* after {TITLES[method]}", method, "article_type", results) for method in changed]
    table = "\n".join(lines)
    (output / "table.md").write_text(f"{table}\n")
    minutes = sum(entry["seconds"] for own in results.values.values() for entry in own.values()) / 60
    print(f"{table}\n\n{processor()}, {os.cpu_count()} shared cores; {minutes:.0f} minutes in all")
    save_figure(_figure(results), ROOT / "docs/images/adapt_cifar10.png")


def _row(title: str, method: str, name: str, results: Results) -> str:
    cells = []
    for shots in SHOTS:
        found = results.of(method, None if method == "zero_shot" else shots, name)
        spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
        cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
    return f"| {title} | {' | '.join(cells)} |"


def _figure(results: Results) -> Figure:
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    places = {shots: shots or 1600 for shots in SHOTS}
    for number, (method, title) in enumerate(TITLES.items()):
        if method == "zero_shot":
            if found := results.of(method, None, "cifar10"):
                axes.axhline(found[0], color="#8a8f98", linestyle="--", label=title)
            continue
        points = {shots: results.of(method, shots, "cifar10") for shots in SHOTS}
        points = {shots: found for shots, found in points.items() if found}
        if points:
            # A little beside each other, so that the bars can be told apart.
            x = [places[shots] * 1.03 ** (number - len(TITLES) / 2) for shots in points]
            y = [statistics.mean(found) for found in points.values()]
            spread = [statistics.stdev(found) if len(found) > 1 else 0.0 for found in points.values()]
            axes.errorbar(x, y, spread, marker="o", markersize=4, elinewidth=1, label=title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(places.values()), [str(shots or "all") for shots in SHOTS])
    axes.set(xlabel="labelled photographs a class", ylabel="top-1 on CIFAR-10, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


if __name__ == "__main__":
    main()
