"""Detection by words on rendered scenes of two objects, by the recipes of recipes/detection: seen and held-out combinations."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from report import processor, put_section
from scene_models import Kept, Progress
from torch import Tensor

from lightning_clip import ClipDataModule, ClipModule
from lightning_clip.applications.detection import Detector
from lightning_clip.data import SyntheticObjects
from lightning_clip.evaluation.feature_provider import LiveSubject
from lightning_clip.evaluation.models import PredictorModel
from lightning_clip.evaluation.protocols.detection import Detection
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.templates import resolve_templates
from lightning_clip.reporting.boxes import box_figure
from lightning_clip.reporting.plots import save_figure

RECIPES = Path(__file__).resolve().parent.parent / "recipes/detection"


def train(name: str, folder: Path, steps: int | None, **settings: Any) -> Path:
    """A recipe's run; the checkpoint that it ends with."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    given = {key: value for key, value in recipe["data"]["train"].items() if key != "name"}
    data = ClipDataModule(train=Kept(SyntheticObjects(**given)), local_batch_size=recipe["data"]["local_batch_size"])
    pl.seed_everything(0, verbose=False)
    module = ClipModule(**{**recipe["model"], **settings})
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    steps = recipe["trainer"]["max_steps"] if steps is None else steps
    trainer = pl.Trainer(max_steps=steps, accelerator="cpu", devices=1, callbacks=[Progress(50)], **quiet)  # type: ignore[arg-type]
    trainer.fit(module, data)
    trainer.save_checkpoint(folder / f"{name}.ckpt")
    return folder / f"{name}.ckpt"


def pictures(module: ClipModule, scenes: SyntheticObjects, folder: Path) -> None:
    """What is found in the first scenes, for people."""
    detector = Detector(module.predictor, scenes.class_names, threshold=0.3)
    for place in range(6):
        picture: Tensor = scenes[place].image  # type: ignore[assignment]
        found = detector(picture)
        save_figure(box_figure(picture, found.boxes, found.labels, found.scores, found.names), folder / f"boxes{place}.png")
        print(place, [scenes.class_names[label] for label in scenes.labels(place)], found.to_mappings())


def main() -> None:
    """Trains, measures, and writes the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, help="steps on captions (default: the recipe's)")
    parser.add_argument("--steps", type=int, help="steps on boxes (default: the recipe's)")
    parser.add_argument("--test", type=int, default=400, help="scenes that are measured")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/detection/benchmark"), help="where checkpoints and pictures go"
    )
    parser.add_argument("--checkpoint", type=Path, help="a model that was trained before, instead of training")
    parser.add_argument("--minutes", type=float, help="of CPU time that its training took")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    start, path = time.process_time(), options.checkpoint
    if path is None:
        base = train("pairs", options.folder, options.pairs)
        path = train("boxes", options.folder, options.steps, pretrained=str(base))
    minutes = (time.process_time() - start) / 60 if options.minutes is None else options.minutes
    module = ClipModule.load_from_checkpoint(path)
    scenes = SyntheticObjects("test", size=options.test)
    dataset = EvaluationSet(scenes, scenes.class_names, resolve_templates("simple"))
    subject: Any = LiveSubject(PredictorModel(module.predictor), dataset, "objects", lambda images, classes: None)  # type: ignore[arg-type, return-value]
    metrics = Detection().evaluate(subject).metrics
    pictures(module, scenes, options.folder)
    keys = ("map50", "map", "map75")
    rows = {"all 64": "", "seen in training, 56": "/seen", "held out, 8": "/held_out"}
    lines = [
        "## Boxes by words: rendered scenes of two objects",
        "",
        f"`python benchmarks/detection.py`: the recipes of `recipes/detection`, about {minutes:.0f} minutes of one CPU core, "
        f"then {options.test} scenes that training has not seen, each asked for the names of all 64 combinations of colour and "
        f"shape. One seed on {processor()}, 1 thread, torch {torch.__version__}.",
        "",
        "| combinations | mAP@50 | mAP | mAP@75 |",
        "|---|---|---|---|",
        *(
            f"| {name} | " + " | ".join(f"{100 * metrics[f'{key}{end}']:.1f}" for key in keys) + " |"
            for name, end in rows.items()
        ),
        "",
        "In %. Those held out are never drawn in training, with captions or with boxes; eight classes and one seed leave some "
        "points to chance.",
    ]
    put_section("detection", "\n".join(lines))


if __name__ == "__main__":
    main()
