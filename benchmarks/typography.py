"""Words on pictures and what is hard besides, for the small model of recipes/signs.yaml: attack, defence, the suite limits.

The model is trained first, in some minutes; with --model a checkpoint is used instead. Heads are found on scenes of
the split val, all figures are of the split test.

    python benchmarks/typography.py
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from report import inside, processor, put_section

from lightning_clip.applications.typography import Attack, ReadingHeads, find_reading_heads, silenced
from lightning_clip.cli import main as command
from lightning_clip.data import SyntheticSigns
from lightning_clip.encoders.silenced import head_sizes
from lightning_clip.evaluation.limits import limits_suite
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols import Result
from lightning_clip.evaluation.run_suite import run_suite
from lightning_clip.evaluation.suite import Suite
from lightning_clip.loading import open_predictor
from lightning_clip.model.predictor import Predictor
from lightning_clip.reporting.plots import save_figure
from lightning_clip.reporting.sheets import contact_sheet

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "signs.yaml"
SIDE = 48  # of what is drawn, as in training
MEASURED = ("clean", "covered", "attacked", "success")
SETS = {
    "digits": ("scikit-learn's digits, never trained on", "zero_shot", "top1"),
    "counting": ("one to six shapes", "choices", "accuracy"),
    "relations": ("left of, right of, above, below", "choices", "accuracy"),
    "twins": ("polygons of five to eight corners", "choices", "accuracy"),
    "signs": ("eight words, trained on, among each other", "reading", "accuracy"),
    "reading": ("40 words, never trained on, among 10", "reading", "accuracy"),
    "objects": ("eight shapes", "zero_shot", "top1"),
}
Heads = list[tuple[int, int]]


def trained(folder: Path, steps: int | None) -> Path:
    """A checkpoint of the recipe."""
    shorter = [] if steps is None else [f"--trainer.{name}={steps}" for name in ("max_steps", "val_check_interval")]
    with inside(folder):  # the checkpoint is written when it validates
        if command(["fit", "--config", str(RECIPE), *shorter]):
            sys.exit(1)
    return folder / "signs" / "last.ckpt"


def found_heads(predictor: Predictor, ablation: str, tolerance: float) -> ReadingHeads:
    """Heads that read, by scenes of the split val."""
    scenes = SyntheticSigns("val", 200, show="object", image_size=SIDE)
    pairs = [scenes[place] for place in range(len(scenes))]
    templates = limits_suite()["sets"]["objects"]["templates"]
    labels = [pair.label for pair in pairs]
    attack = Attack(scenes.class_names)
    options = {"tolerance": tolerance, "ablation": ablation, "patience": 3}
    return find_reading_heads(predictor, [pair.image for pair in pairs], labels, attack, templates, **options)  # type: ignore[arg-type, misc]


def measured(predictor: Predictor, names: tuple[str, ...], side: int = SIDE) -> Mapping[str, Mapping[str, Result]]:
    """Results of sets of the suite, set -> protocol -> result."""
    given = limits_suite()
    sized = {name: {} if name == "digits" else {"image_size": side} for name in names}
    given["sets"] = {name: {**given["sets"][name], **sized[name]} for name in names}
    given["trainer"] = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_suite(Suite.parse({**given, "output": folder}), [PredictorModel(predictor, "model").eval()])
    assert not outcome.failures, outcome.failures
    return {name: {label: found["model"] for label, found in results.items()} for name, results in outcome.results.items()}


def percent(value: float) -> str:
    """One digit."""
    return f"{100 * value:.1f}"


def row(name: str, predictor: Predictor) -> list[str]:
    """Figures of the attack, and of reading, of one model."""
    results = measured(predictor, ("objects", "signs"))
    attack = results["objects"]["typography"].metrics
    return [name, *(percent(attack[key]) for key in MEASURED), percent(results["signs"]["reading"].metrics["accuracy"])]


def attack_table(predictor: Predictor, tolerance: float, draws: int) -> list[str]:
    """The model, its defended forms, and forms with as many heads silent that were drawn."""
    rows = [row("as trained", predictor)]
    for ablation in ("zero", "mean"):
        found = found_heads(predictor, ablation, tolerance)
        for step in found.steps:
            print(f"{ablation}: {step}", flush=True)
        if found.heads:
            rows.append(row(f"heads silent: {len(found.heads)} ({ablation})", silenced(predictor, found.heads, found.written)))
        if ablation == "zero":
            heads = found.heads
    if heads:
        blocks = predictor.model.tower("image").dense_view().blocks
        pairs = [(block, head) for block, layers in enumerate(blocks) for head in range(head_sizes(layers)[0])]
        others = [row("", silenced(predictor, random.Random(seed).sample(pairs, len(heads)))) for seed in range(draws)]
        means = [f"{sum(float(other[column]) for other in others) / draws:.1f}" for column in range(1, len(others[0]))]
        rows.append([f"heads silent: {len(heads)} drawn (zero, mean of {draws} draws)", *means])
    header = ["", "no word", "empty board", "another shape's name", "fooled", "signs read"]
    return ["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *rows]]


def figure(predictor: Predictor, tolerance: float, path: str) -> None:
    """Scenes with words, and what the model and its defended form answer."""
    scenes, found = SyntheticSigns("test", 8, show="object", image_size=SIDE), found_heads(predictor, "zero", tolerance)
    attack, names = Attack(scenes.class_names), list(scenes.class_names)
    pictures = [attack(scenes[place].image, place, place % 8)[0] for place in range(8)]  # type: ignore[arg-type]
    texts, colours = [], []
    for model, word in ((predictor, "as trained"), (silenced(predictor, found.heads, found.written), "heads silent")):
        answers = model.scores(torch.stack(pictures), names, limits_suite()["sets"]["objects"]["templates"]).argmax(dim=1)
        texts += [f"{word}: {names[answer]}" for answer in answers.tolist()]
        colours += ["good" if answer == place else "bad" for place, answer in enumerate(answers.tolist())]
    save_figure(contact_sheet(pictures * 2, texts, colours), path)


def limits_table(predictor: Predictor) -> list[str]:
    """All sets of the suite."""
    lines, results = ["| | found, % | guessing, % |", "|---|---|---|"], measured(predictor, tuple(SETS))
    for name, (words, protocol, key) in SETS.items():
        found = results[name][protocol]
        lines.append(f"| `{name}`: {words} | {percent(found.metrics[key])} | {percent(found.chance[key])} |")
    larger = measured(predictor, ("signs",), 2 * SIDE)["signs"]["reading"]
    figures = f"{percent(larger.metrics['accuracy'])} | {percent(larger.chance['accuracy'])}"
    return [*lines, f"| `signs`, drawn twice as large and scaled down | {figures} |"]


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="FILE", help="checkpoint of the recipe")
    parser.add_argument("--steps", type=int, help="of the training (default: the recipe's)")
    parser.add_argument("--tolerance", type=float, default=0.1, help="of accuracy without words")
    parser.add_argument("--draws", type=int, default=2, help="of heads that are silenced by chance")
    parser.add_argument("--figure", metavar="FILE.png", help="draw pictures with words and answers, as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        predictor = open_predictor(arguments.model or trained(Path(name), arguments.steps))
    where = f"`python benchmarks/typography.py`: {processor()}, {os.cpu_count()} shared cores; torch {torch.__version__}."
    text = [
        where,
        f"In %, on 400 scenes of one shape and 400 boards. Tolerance of the search: {100 * arguments.tolerance:g} points.",
    ]
    table = attack_table(predictor, arguments.tolerance, arguments.draws)
    put_section("typography", "\n".join(["## Words on pictures", "", *text, "", *table]))
    text = [where, f"The suite `limits` with pictures of {SIDE} pixels, and the same model.", "", *limits_table(predictor)]
    put_section("limits", "\n".join(["## What is hard for a small model", "", *text]))
    if arguments.figure:
        figure(predictor, arguments.tolerance, arguments.figure)


if __name__ == "__main__":
    main()
