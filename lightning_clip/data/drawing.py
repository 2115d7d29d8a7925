"""Drawing of scenes from groups of coloured shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

__all__ = ["COLOURS", "PLACES", "SHAPES", "SIZES", "Group", "render"]

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
SIZES = {"small": (0.13, 0.155), "large": (0.215, 0.25)}  # radii, in sides of the picture
PLACES = {"on the left": (0.25, 0.5), "on the right": (0.75, 0.5), "at the top": (0.5, 0.25), "at the bottom": (0.5, 0.75)}
_SUPERSAMPLING = 3


class Group(NamedTuple):
    """One to three equal shapes around a place: names of `COLOURS`, `SHAPES`, `SIZES` and `PLACES`."""

    colour: str
    shape: str
    number: int = 1
    size: str = "large"
    place: str = "on the left"


def render(groups: Sequence[Group], image_size: int = 64, rng: random.Random | None = None) -> Image.Image:
    """Draws groups of shapes, with jitter in position, size, rotation, colour and background.

    Args:
        groups: later ones over earlier ones.
        image_size: side in pixels.
        rng: of the jitter; None for always the same.

    Examples:
        >>> render([Group("red", "circle"), Group("blue", "square", place="on the right")]).size
        (64, 64)
    """
    rng = rng or random.Random(0)
    side = image_size * _SUPERSAMPLING
    grey = rng.randint(190, 255)
    background = tuple(max(0, min(255, grey + rng.randint(-8, 8))) for _ in range(3))
    canvas = Image.new("RGB", (side, side), background)
    draw = ImageDraw.Draw(canvas)
    for colour, shape, count, size, place in groups:
        radius = rng.uniform(*SIZES[size]) * side
        fill = tuple(max(0, min(255, channel + rng.randint(-12, 12))) for channel in COLOURS[colour])
        for x, y in _centres(count, place, radius, side, rng):
            _draw_shape(draw, shape, x, y, radius, fill, background, rng.uniform(-0.2, 0.2))
    return canvas.resize((image_size, image_size), Image.Resampling.BOX)


def _centres(count: int, place: str, radius: float, side: int, rng: random.Random) -> list[tuple[float, float]]:
    """Centres in a row across the place's free direction, kept inside the picture."""
    x, y = (part * side for part in PLACES[place])
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
