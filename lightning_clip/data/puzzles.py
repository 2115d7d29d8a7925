"""Puzzles: rendered scenes with captions to choose from, of which one is right: numbers, relations, shapes almost alike."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image, ImageDraw
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.drawing import COLOURS, SHAPES, Group, render
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.data.synthetic import SPLITS, counted

__all__ = ["PUZZLES", "ScenePuzzles"]

NUMBERS = ("one", "two", "three", "four", "five", "six")
RELATIONS = ("left of", "right of", "above", "below")
POLYGONS = {"pentagon": 5, "hexagon": 6, "heptagon": 7, "octagon": 8}
_SALT = 307  # so that no scene has the seed of one of another source
_SUPERSAMPLING = 3
_SIDES = {"left of": ("on the left", "on the right"), "above": ("at the top", "at the bottom")}
_OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class _Puzzle(NamedTuple):
    """A picture, its class, and captions of which the one at `answer` is right."""

    picture: Image.Image
    label: int
    choices: list[str]
    answer: int


def _counting(size: int, label: int, rng: random.Random) -> _Puzzle:
    """One to six equal shapes, scattered, not touching."""
    colour, shape, number = rng.choice(sorted(COLOURS)), rng.choice(("circle", "square", "triangle")), label + 1
    cells = rng.sample([(row, column) for row in range(3) for column in range(3)], number)
    canvas, draw = _canvas(size, rng)
    step = canvas.width / 3
    radius = step * rng.uniform(0.28, 0.36)
    for row, column in cells:
        x, y = ((place + 0.5) * step + rng.uniform(-0.1, 0.1) * step for place in (column, row))
        _polygon(draw, {"circle": 40, "square": 4, "triangle": 3}[shape], x, y, radius, COLOURS[colour], 0.0)
    plural = counted(2, shape).removeprefix("two ")
    choices = [f"{word} {colour} {shape if word == 'one' else plural}" for word in NUMBERS]
    return _Puzzle(_small(canvas, size), label, choices, label)


def _relations(size: int, label: int, rng: random.Random) -> _Puzzle:
    """Two different shapes beside each other or one above the other."""
    relation = RELATIONS[label]
    (red, blue), (circle, square) = rng.sample(sorted(COLOURS), 2), rng.sample(SHAPES, 2)
    places = _SIDES.get(relation) or _SIDES[_OPPOSITE[relation]][::-1]
    groups = [Group(red, circle, 1, "small", places[0]), Group(blue, square, 1, "small", places[1])]
    one, other = counted(1, circle, red), counted(1, square, blue)
    choices = [f"{one} {word} {other}" if word in ("above", "below") else f"{one} to the {word} {other}" for word in RELATIONS]
    return _Puzzle(render(groups, size, rng), label, choices, label)


def _twins(size: int, label: int, rng: random.Random) -> _Puzzle:
    """A regular polygon of five to eight corners, turned by any angle."""
    colour, names = rng.choice(sorted(COLOURS)), list(POLYGONS)
    canvas, draw = _canvas(size, rng)
    radius = canvas.width * rng.uniform(0.3, 0.42)
    x, y = (canvas.width * rng.uniform(0.45, 0.55) for _ in range(2))
    _polygon(draw, POLYGONS[names[label]], x, y, radius, COLOURS[colour], rng.uniform(0, 2 * math.pi))
    return _Puzzle(_small(canvas, size), label, [counted(1, name, colour) for name in names], label)


# Kind -> what draws it, and names of its classes.
PUZZLES: dict[str, tuple[Callable[[int, int, random.Random], _Puzzle], tuple[str, ...]]] = {
    "counting": (_counting, NUMBERS),
    "relations": (_relations, RELATIONS),
    "twins": (_twins, tuple(POLYGONS)),
}


@pair_sources.register("puzzles")
class ScenePuzzles(PairSource):
    """Rendered scenes, each with captions to choose from in its metadata ("choices", and "answer": the place of the right one).

    Args:
        kind: "counting" (one to six equal shapes), "relations" (of two different shapes: left of, right of, above, below) or
            "twins" (regular polygons of five to eight corners).
        split: "train", "val" or "test": other seeds.
        size: number of scenes.
        image_size: side in pixels.
        seed: chooses the scenes; scene i is a function of (seed, split, kind, i).

    Examples:
        >>> ScenePuzzles("relations", "test", size=8)[2].metadata["choices"][2]
        'a blue triangle above a purple ring'
    """

    def __init__(self, kind: str, split: str = "train", size: int = 100_000, *, image_size: int = 64, seed: int = 0) -> None:
        if kind not in PUZZLES:
            raise InputError(f"puzzles kind {kind!r} is unknown: {nearest(kind, PUZZLES)}")
        if split not in SPLITS:
            raise InputError(f"puzzles split {split!r} must be one of {', '.join(SPLITS)}")
        in_range("puzzles size", size, 1, whole=True)
        in_range("puzzles image_size", image_size, 16, whole=True)
        self.kind, self.split, self.size, self.image_size, self.seed = kind, split, size, image_size, seed
        self._draw, names = PUZZLES[kind]
        self.class_names = list(names)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.size:
            raise IndexError(index)
        salt = SPLITS.index(self.split) + _SALT * (1 + list(PUZZLES).index(self.kind))
        rng = random.Random(visit_seed(self.seed, salt, index))
        found = self._draw(self.image_size, index % len(self.class_names), rng)
        return Pair(
            image=pil_to_tensor(found.picture),
            captions=(found.choices[found.answer],),
            key=f"{self.kind}/{self.split}/{index:08d}",
            label=found.label,
            metadata={"choices": found.choices, "answer": found.answer},
        )


def _canvas(size: int, rng: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    grey = rng.randint(190, 255)
    canvas = Image.new("RGB", (size * _SUPERSAMPLING,) * 2, (grey, grey, grey))
    return canvas, ImageDraw.Draw(canvas)


def _small(canvas: Image.Image, size: int) -> Image.Image:
    return canvas.resize((size, size), Image.Resampling.BOX)


def _polygon(
    draw: ImageDraw.ImageDraw, corners: int, x: float, y: float, radius: float, fill: tuple[int, int, int], turned: float
) -> None:
    """A regular polygon; many corners make a circle, four stand on a side."""
    start = turned - math.pi / 2 + (math.pi / 4 if corners == 4 else 0)
    angles = [start + 2 * math.pi * number / corners for number in range(corners)]
    draw.polygon([(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles], fill=fill)
