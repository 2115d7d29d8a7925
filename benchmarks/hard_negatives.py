"""Hard negatives on rendered scenes: the same small model, data, seed and steps with `negclip` and with `pairs`.

Scenes of two things with their colours, numbers or places. A test image must score its own caption above its twin's, which
has the same words: two things, two colours or two numbers have changed places (guessing: 50 %). No training image has its twin
in the data. Recall@10 is among other scenes.

    python benchmarks/hard_negatives.py
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from report import machine, put_section
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip import ClipDataModule, ClipModule, Pair
from lightning_clip.data import PairSource
from lightning_clip.data.drawing import COLOURS, PLACES, SHAPES, Group, render
from lightning_clip.data.synthetic import counted
from lightning_clip.metrics.scores import retrieval_scores

KINDS = {
    "words": "a red circle on the left and a blue square at the top / a blue square on the left and a red circle at the top",
    "colours": "a red circle and a blue square / a blue circle and a red square",
    "counts": "two red circles and three blue squares / three red circles and two blue squares",
}
SIZE, THINGS, TRAIN_SEED, TEST_SEED, GALLERY_SEED = 32, 2, 1, 2, 3


class Twins(NamedTuple):
    """Images and their captions, of the same words; caption i belongs to image i."""

    images: list[Tensor]
    captions: list[str]


def twins(kind: str, number: int, seed: int, both: bool = True) -> Twins:
    """Two scenes, or the first of them, a pure function of all arguments; they differ in what `kind` exchanges."""
    rng = random.Random(f"{seed} {kind} {number}")
    colours, shapes, places = (rng.sample(sorted(names), THINGS) for names in (COLOURS, SHAPES, PLACES))
    numbers = rng.sample((1, 2, 3), THINGS) if kind == "counts" else [1] * THINGS
    order, jitter = rng.sample(range(THINGS), THINGS), rng.random()
    one = [colours, shapes, numbers]
    changed = {"words": (0, 1, 2), "colours": (0,), "counts": (2,)}[kind]
    other = [[values[1], values[0], *values[2:]] if row in changed else values for row, values in enumerate(one)]
    images, captions = [], []
    for scene in (one, other) if both else (one,):
        things: list[Any] = list(zip(*scene, places, strict=True))
        groups = [Group(colour, shape, many, "small", place) for colour, shape, many, place in things]
        images.append(pil_to_tensor(render(groups, SIZE, random.Random(jitter))))
        words = [counted(n, shape, colour, after=at if kind == "words" else "") for colour, shape, n, at in things]
        *first, last = (words[row] for row in order)
        captions.append(f"{', '.join(first)} and {last}")
    return Twins(images, captions)


class Scenes(PairSource):
    """The first of each twins, in memory."""

    def __init__(self, size: int, seed: int) -> None:
        found = [twins(list(KINDS)[number % len(KINDS)], number, seed, both=False) for number in range(size)]
        self.images, self.texts = [pair.images[0] for pair in found], [pair.captions[0] for pair in found]

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.images[index], (self.texts[index],), key=str(index))


def trained(objective: Any, scenes: Scenes, steps: int, batch: int, seed: int) -> tuple[ClipModule, float]:
    """A module trained from its first weights, which the seed makes, and the seconds that it took."""
    pl.seed_everything(seed, verbose=False)
    module = ClipModule(
        {"name": "small_conv", "image_size": SIZE, "stride": 1, "stem_width": 16, "widths": [32, 64, 128, 128]},
        {"name": "clip_text", "width": 96, "layers": 2, "heads": 2},
        towers={"image": {"transform": {"crop_scale": [1.0, 1.0], "crop_ratio": [1.0, 1.0]}}},
        embed_dim=96,
        objective=objective,
        tokenizer="recipes/efficiency/scenes/tokenizer.json",
        training={"optimizer": {"name": "muon", "lr": 3e-3, "weight_decay": 0.1, "warmup_steps": 30}},
    )
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", devices=1, max_steps=steps, **quiet)
    begun = time.perf_counter()
    trainer.fit(module, ClipDataModule(train=scenes, local_batch_size=batch, seed=seed))
    return module.eval(), time.perf_counter() - begun


def told_apart(module: ClipModule, size: int) -> dict[str, float]:
    """Of each kind the share of images, both of `size` twins, that score their own caption above the other."""
    found = {}
    for kind in KINDS:
        pairs = [twins(kind, number, TEST_SEED) for number in range(size)]
        images = module.encode_image(torch.stack([image for pair in pairs for image in pair.images])).view(size, 2, -1)
        texts = module.encode_text([text for pair in pairs for text in pair.captions]).view(size, 2, -1)
        scores = torch.einsum("nid,ncd->nic", images, texts)  # images by captions
        own = scores.diagonal(dim1=1, dim2=2)
        found[kind] = float((own > scores.flip(2).diagonal(dim1=1, dim2=2)).double().mean())
    return found


def recall(module: ClipModule, scenes: Scenes) -> float:
    """Mean of R@10 in both directions; an image may find any caption that reads as its own."""
    images: Tensor = module.encode_image(torch.stack(scenes.images))
    values, _ = retrieval_scores(images, module.encode_text(scenes.texts), torch.arange(len(scenes)), [10])
    return float((values["text_to_image/recall@10"] + values["image_to_text/recall@10"]) / 2)


def main() -> None:
    """Trains, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--scenes", type=int, default=6_000, help="of training")
    parser.add_argument("--test", type=int, default=200, help="twins of each kind")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--count", type=int, default=3, help="swapped captions of each pair")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    scenes, gallery = Scenes(arguments.scenes, TRAIN_SEED), Scenes(500, GALLERY_SEED)
    objectives: dict[str, Any] = {"pairs": "pairs", "negclip": {"name": "negclip", "count": arguments.count}}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in objectives}
    for seed in range(arguments.seeds):
        for objective, values in found.items():
            module, seconds = trained(objectives[objective], scenes, arguments.steps, arguments.batch, seed)
            apart = told_apart(module, arguments.test)
            measured = {"all": statistics.mean(apart.values()), **apart, "R@10": recall(module, gallery), "seconds": seconds}
            print(objective, seed, {name: round(value, 3) for name, value in measured.items()}, flush=True)
            for name, value in measured.items():
                values.setdefault(name, []).append(value)
    options = f"--steps {arguments.steps} --batch {arguments.batch} --count {arguments.count} --seeds {arguments.seeds}"
    write(found, options, arguments.seeds)


def write(found: dict[str, dict[str, list[float]]], options: str, seeds: int) -> None:
    """Puts means over seeds, and the differences, into the page."""
    lines = [
        *("## Captions and their swapped copies", ""),
        f"`python benchmarks/hard_negatives.py {options}`: {machine(1, seeds).partition('; medians')[0]}; means over seeds.",
        "Share of images of two things that score their own caption above a copy with two words exchanged (guessing: 50 %).",
        *("", "| | pairs | negclip | difference |", "|---|---|---|---|"),
    ]
    names = {"all": "all three, %", "words": "places of things swapped, %", "colours": "colours swapped, %"}
    names |= {"counts": "numbers swapped, %", "R@10": "recall@10 among 500 scenes, both directions, %"}
    for key, title in names.items():
        one, other = (100 * statistics.mean(found[name][key]) for name in found)
        lines.append(f"| {title} | {one:.1f} | {other:.1f} | {other - one:+.1f} |")
    put_section("hard_negatives", "\n".join(lines))


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
