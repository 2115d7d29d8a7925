"""What the order of frames adds: clips whose captions differ in the order of the moves alone, by both video towers.

Both are trained by recipes/video.yaml, from the same seed and for as many steps. Clips of one object show the very same frames
in another order: the mean over frames finds the object and its line and guesses the order, the Transformer over time reads it.

    python benchmarks/video.py
    python benchmarks/video.py --moves 4 --steps 1500
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
import yaml
from report import Row, inside, machine, write_section

from lightning_clip.applications.video import encode_videos
from lightning_clip.cli import main as command
from lightning_clip.data import MovingShapes
from lightning_clip.data.moving_shapes import orders
from lightning_clip.loading import open_predictor
from lightning_clip.metrics import retrieval_metrics
from lightning_clip.model.predictor import Predictor

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "video.yaml"
OBJECTS, ROUNDS = 4, 16
SAME_WORDS = {2: 2, 4: 8}  # moves -> orders of the same words: there and back along a line, once around


def trained(folder: Path, tower: str, moves: int, steps: int | None) -> Path:
    """A checkpoint of the recipe with a tower, on clips of so many moves."""
    recipe = yaml.safe_load(RECIPE.read_text())
    video = recipe["model"]["towers"]["video"]
    if tower == "meanP":  # has no layers over time
        del video["layers"], video["heads"]
    video["name"] = tower
    for split in ("train", "val", "test"):
        recipe["data"][split]["moves"] = moves
    recipe["trainer"] |= {} if steps is None else {"max_steps": steps, "val_check_interval": steps}
    place = folder / f"{tower}.yaml"
    place.write_text(yaml.safe_dump(recipe))
    with inside(folder):
        if command(["fit", "--config", str(place)]):
            sys.exit(1)
    return (folder / "video_run" / "last.ckpt").rename(folder / f"{tower}.ckpt")


def measured(predictor: Predictor, moves: int) -> list[float]:
    """R@1 text to video and video to text among all captions, and the share of videos whose found caption has the right words.

    Captions of one object that move along one line, or once around, have the same words in another order. Means over rounds.
    """
    every = OBJECTS * len(orders(moves))
    clips = MovingShapes("test", size=every * ROUNDS, objects=OBJECTS, moves=moves)
    captions = [clips.captions(row)[0] for row in range(every)]
    texts = predictor.encode_text(captions)
    words = [sorted(caption.replace(",", "").split()) for caption in captions]
    found = []
    for start in range(0, len(clips), every):
        videos = encode_videos(predictor, [clips[row].columns["video"] for row in range(start, start + every)])
        metrics = retrieval_metrics(videos, texts, torch.arange(every), ks=(1,))
        nearest = (videos @ texts.T).argmax(dim=1).tolist()  # (N, N) -> (N,)
        right = sum(words[place] == words[row] for row, place in enumerate(nearest)) / every
        found.append([float(metrics[f"{name}/recall@1"]) for name in ("text_to_image", "image_to_text")] + [right])
    means: list[float] = torch.tensor(found).mean(dim=0).tolist()
    return means


def main() -> None:
    """Runs and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs=2, metavar="FILE", help="checkpoints of meanP and seqTransf, not to train them here")
    parser.add_argument("--steps", type=int, help="of each training (default: the recipe's)")
    parser.add_argument("--moves", type=int, choices=(2, 4), default=2, help="there and back, or once around (default: 2)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found, seconds = [], []
    with tempfile.TemporaryDirectory() as name:
        for place, tower in enumerate(("meanP", "seqTransf")):
            started = time.process_time()
            path = arguments.models[place] if arguments.models else trained(Path(name), tower, arguments.moves, arguments.steps)
            seconds.append(time.process_time() - started)
            found.append(measured(open_predictor(path), arguments.moves))
    what = ("text to video, R@1", "video to text, R@1", "the caption found has the right words")
    rows = [Row(text, *(f"{100 * shares[place]:.1f} %" for shares in found), "") for place, text in enumerate(what)]
    guessed = f"{100 / SAME_WORDS[arguments.moves]:.1f} %"
    rows.append(Row("guessing the order of known words", guessed, guessed, ""))
    if not arguments.models:
        rows.append(Row("CPU time of training", *(f"{second:.0f} s" for second in seconds), ""))
    title = f"Videos whose captions differ in order alone, {OBJECTS * len(orders(arguments.moves))} captions"
    circumstances = machine(1, ROUNDS).replace("medians", "means")
    options = " ".join(f"--{key} {value}" for key, value in (("moves", arguments.moves), ("steps", arguments.steps)) if value)
    heads = ("meanP", "seqTransf")
    write_section("video", title, circumstances, rows, heads, "" if arguments.moves == 2 else options)


if __name__ == "__main__":
    main()
