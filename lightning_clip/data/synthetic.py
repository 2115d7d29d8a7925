"""Endless rendered scenes with captions: coloured shapes of several sizes, places and counts, a pure function of the seed."""

from __future__ import annotations

import math
import random
from itertools import product

from PIL import Image, ImageDraw
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.errors import InputError
from lightning_clip.types import Pair

__all__ = ["COLOURS", "SHAPES", "SPLITS", "SyntheticScenes", "combination_names", "held_out_combinations", "render"]

COLOURS = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 215, 40),
    "green": (40, 150, 60),
    "cyan": (60, 200, 210),
    "blue": (30, 70, 200),
    "purple": (130, 50, 170),
    "pink": (245, 130, 190),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "crescent")
SPLITS = ("train", "val", "test")
_SIZES = {"small": (0.13, 0.155), "large": (0.215, 0.25)}
_PLACES = {"on the left": (0.25, 0.5), "on the right": (0.75, 0.5), "at the top": (0.5, 0.25), "at the bottom": (0.5, 0.75)}
_COUNTS = {1: "a", 2: "two", 3: "three"}
_OPENINGS = ("", "a picture of ", "a photo of ", "a drawing of ", "there is ", "this image shows ")
_SUPERSAMPLING = 3
# How often a caption is silent on the colour, and on the shape; how often it mentions size, and place.
_SILENCE, _MENTION = 0.2, 0.8


def held_out_combinations() -> list[tuple[str, str]]:
    """The eight (colour, shape) pairs that training never shows: each colour and each shape is left out once."""
    return list(zip(COLOURS, SHAPES, strict=True))


def combination_names(*, held_out: bool | None = None) -> list[str]:
    """Class names such as "red circle": all of them, or only those held out of (or seen in) training."""
    hidden = set(held_out_combinations())
    pairs = product(COLOURS, SHAPES)
    return [f"{colour} {shape}" for colour, shape in pairs if held_out in (None, (colour, shape) in hidden)]


@pair_sources.register("synthetic")
class SyntheticScenes(PairSource):
    """Rendered scenes of one to three equal shapes, with a caption that names count, size, colour, shape and place.

    Args:
        split: "train" shows seen combinations only, "val" and "test" all of them, from other seeds.
        size: number of scenes.
        image_size: side in pixels.
        seed: chooses the scenes; scene i is a function of (seed, split, i).
        held_out: True shows only the combinations that training never shows, each equally often.
        all_classes: True has all 64 combinations as classes, False only those that occur where `held_out` is set.

    Examples:
        >>> scenes = SyntheticScenes(size=10)
        >>> scenes[3].image.shape, scenes[3].captions == SyntheticScenes(size=10)[3].captions
        (torch.Size([3, 64, 64]), True)
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 100_000,
        *,
        image_size: int = 64,
        seed: int = 0,
        held_out: bool = False,
        all_classes: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"synthetic split {split!r} must be one of {', '.join(SPLITS)}")
        if size < 1:
            raise InputError(f"synthetic size {size} must be at least 1")
        self.split, self.size, self.image_size, self.seed, self.held_out = split, size, image_size, seed, held_out
        hidden = held_out_combinations()
        seen = [pair for pair in product(COLOURS, SHAPES) if pair not in hidden]
        self._combinations = hidden if held_out else seen if split == "train" else seen + hidden
        self.class_names = combination_names(held_out=True if held_out and not all_classes else None)
        self._labels = {name: label for label, name in enumerate(self.class_names)}

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.size:
            raise IndexError(index)
        split = SPLITS.index(self.split) + len(SPLITS) * self.held_out
        rng = random.Random(visit_seed(self.seed, split, index))
        # Labelled sets go round the combinations, so that each class is met equally often.
        colour, shape = self._combinations[index % len(self._combinations)] if self.held_out else rng.choice(self._combinations)
        count, size, place = rng.choice(list(_COUNTS)), rng.choice(list(_SIZES)), rng.choice(list(_PLACES))
        image = render(colour, shape, count=count, size=size, place=place, image_size=self.image_size, rng=rng)
        return Pair(
            image=pil_to_tensor(image),
            captions=(_caption(colour, shape, count, size, place, rng),),
            key=f"{self.split}/{index:08d}",
            label=self._labels[f"{colour} {shape}"],
        )


def render(
    colour: str,
    shape: str,
    *,
    count: int = 1,
    size: str = "large",
    place: str = "on the left",
    image_size: int = 64,
    rng: random.Random | None = None,
) -> Image.Image:
    """Draws `count` equal shapes around a place, with jitter in position, size, rotation, colour and background."""
    rng = rng or random.Random(0)
    side = image_size * _SUPERSAMPLING
    grey = rng.randint(190, 255)
    background = tuple(max(0, min(255, grey + rng.randint(-8, 8))) for _ in range(3))
    canvas = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(canvas)
    radius = rng.uniform(*_SIZES[size]) * side
    fill = tuple(max(0, min(255, channel + rng.randint(-12, 12))) for channel in COLOURS[colour])
    for x, y in _centres(count, place, radius, side, rng):
        _draw_shape(draw, shape, x, y, radius, fill, background, rng.uniform(-0.2, 0.2))
    return canvas.resize((image_size, image_size), Image.Resampling.BOX)


def _centres(count: int, place: str, radius: float, side: int, rng: random.Random) -> list[tuple[float, float]]:
    """Centres in a row across the place's free direction, kept inside the picture."""
    x, y = (part * side for part in _PLACES[place])
    upright = place in ("on the left", "on the right")
    gap = min(2.4 * radius, (side - 2 * radius) / max(1, count - 1))
    centres = []
    for number in range(count):
        shift = (number - (count - 1) / 2) * gap
        along = (x, y + shift) if upright else (x + shift, y)
        jittered = (part + rng.uniform(-0.03, 0.03) * side for part in along)
        centres.append(tuple(max(radius, min(side - radius, part)) for part in jittered))
    return centres  # type: ignore[return-value]


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    radius: float,
    fill: tuple[int, ...],
    background: tuple[int, ...],
    angle: float,
) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape in ("circle", "ring", "crescent"):
        draw.ellipse(box, fill=fill)
        if shape == "ring":
            inner = radius * 0.55
            draw.ellipse((x - inner, y - inner, x + inner, y + inner), fill=background)
        if shape == "crescent":
            draw.ellipse(tuple(edge + radius * (0.55, 0.0)[i % 2] for i, edge in enumerate(box)), fill=background)
        return
    corners = _OUTLINES[shape]
    cosine, sine = math.cos(angle), math.sin(angle)
    draw.polygon(
        [(x + radius * (px * cosine - py * sine), y + radius * (px * sine + py * cosine)) for px, py in corners], fill=fill
    )


def _star() -> list[tuple[float, float]]:
    radii = (1.0, 0.42) * 5
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


# Corners on a circle of radius 1, y pointing down.
_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.92, 0.75), (-0.92, 0.75)],
    "star": _star(),
    "cross": [(a * 0.95, b * 0.95) for a, b in (
        (-0.33, -1), (0.33, -1), (0.33, -0.33), (1, -0.33), (1, 0.33), (0.33, 0.33),
        (0.33, 1), (-0.33, 1), (-0.33, 0.33), (-1, 0.33), (-1, -0.33), (-0.33, -0.33),
    )],
    "diamond": [(0.0, -1.0), (0.6, 0.0), (0.0, 1.0), (-0.6, 0.0)],
}  # fmt: skip


def _caption(colour: str, shape: str, count: int, size: str, place: str, rng: random.Random) -> str:
    """A caption that leaves out what people leave out: now and then the colour or the shape, sometimes size or place."""
    silent = rng.random()
    noun = "shape" if silent < _SILENCE else shape
    nouns = noun if count == 1 else ("crosses" if noun == "cross" else f"{noun}s")
    words = [
        _COUNTS[count],
        size if rng.random() < _MENTION else "",
        "" if _SILENCE <= silent < 2 * _SILENCE else colour,
        nouns,
        place if rng.random() < _MENTION else "",
    ]
    phrase = " ".join(word for word in words if word)
    return rng.choice(_OPENINGS) + phrase.replace("a orange", "an orange")
