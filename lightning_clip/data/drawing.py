"""Drawing of scenes from groups of coloured shapes."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

__all__ = [
    "COLOURS",
    "PLACES",
    "SHAPES",
    "SIZES",
    "Group",
    "Look",
    "render",
    "render_at",
    "render_with_boxes",
    "render_with_mask",
]

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
    return _small(_rendered(groups, image_size, rng or random.Random(0), masked=False)[0], image_size)


def render_with_mask(
    groups: Sequence[Group], image_size: int = 64, rng: random.Random | None = None
) -> tuple[Image.Image, Image.Image]:
    """As `render`, and where each group is seen: a grey picture of the number of the group, from 1, and 0 for the background.

    Args:
        groups: at most 255, later ones over earlier ones.
        image_size: side in pixels.
        rng: of the jitter; the picture is the one that `render` draws with it.

    Examples:
        >>> picture, mask = render_with_mask([Group("red", "circle"), Group("blue", "square", place="on the right")])
        >>> mask.getpixel((16, 32)), mask.getpixel((48, 32)), mask.getpixel((0, 0))
        (1, 2, 0)
    """
    picture, mask = _rendered(groups, image_size, rng or random.Random(0), masked=True)
    # The middle of the pixels that become one decides which group it belongs to.
    return _small(picture, image_size), mask.resize((image_size, image_size), Image.Resampling.NEAREST)


def render_with_boxes(
    groups: Sequence[Group], image_size: int = 64, rng: random.Random | None = None
) -> tuple[Image.Image, list[tuple[float, float, float, float] | None]]:
    """As `render`, and the box around what is seen of each group: left, top, right and bottom as shares of the picture.

    Args:
        groups: at most 255, later ones over earlier ones; what is covered whole has None.
        image_size: side in pixels.
        rng: of the jitter; the picture is the one that `render` draws with it.

    Examples:
        >>> picture, boxes = render_with_boxes([Group("red", "circle"), Group("blue", "square", place="on the right")])
        >>> [round(part, 2) for part in boxes[0]]
        [0.03, 0.24, 0.53, 0.74]
    """
    picture, mask = _rendered(groups, image_size, rng or random.Random(0), masked=True)
    boxes: list[tuple[float, float, float, float] | None] = []
    for number in range(1, len(groups) + 1):
        found = mask.point([value == number for value in range(256)]).getbbox()
        boxes.append(None if found is None else tuple(edge / mask.width for edge in found))  # type: ignore[arg-type]
    return _small(picture, image_size), boxes


def _small(canvas: Image.Image, image_size: int) -> Image.Image:
    return canvas.resize((image_size, image_size), Image.Resampling.BOX)


class Look(NamedTuple):
    """How a shape looks in all frames of a clip.

    Attributes:
        shape: one of `SHAPES`.
        radius: in sides of the picture.
        angle: in radians.
        fill: RGB.
        background: RGB.
    """

    shape: str
    radius: float
    angle: float
    fill: tuple[int, ...]
    background: tuple[int, ...]

    @classmethod
    def drawn(cls, colour: str, shape: str, rng: random.Random, radii: tuple[float, float] = (0.14, 0.18)) -> Look:
        """A shape of a colour, with jitter in size, rotation, colour and background.

        Args:
            colour: one of `COLOURS`.
            shape: one of `SHAPES`.
            rng: of the jitter.
            radii: between which the radius is drawn.
        """
        grey = rng.randint(190, 255)
        background = tuple(max(0, min(255, grey + rng.randint(-8, 8))) for _ in range(3))
        fill = tuple(max(0, min(255, channel + rng.randint(-12, 12))) for channel in COLOURS[colour])
        return cls(shape, rng.uniform(*radii), rng.uniform(-0.2, 0.2), fill, background)


def render_at(look: Look, place: tuple[float, float], image_size: int = 64) -> Image.Image:
    """One shape at a place, as a frame of a clip.

    Args:
        look: of the shape.
        place: of its centre, in sides of the picture from the left and from the top.
        image_size: side in pixels.

    Examples:
        >>> render_at(Look.drawn("red", "circle", random.Random(0)), (0.25, 0.75), 32).size
        (32, 32)
    """
    side = image_size * _SUPERSAMPLING
    canvas = Image.new("RGB", (side, side), look.background)
    centre = place[0] * side, place[1] * side
    _draw_shape(ImageDraw.Draw(canvas), look.shape, *centre, look.radius * side, look.fill, look.background, look.angle)
    return _small(canvas, image_size)


def _rendered(groups: Sequence[Group], image_size: int, rng: random.Random, *, masked: bool) -> tuple[Image.Image, Image.Image]:
    """The canvas and its mask, both larger than the picture."""
    side = image_size * _SUPERSAMPLING
    grey = rng.randint(190, 255)
    background = tuple(max(0, min(255, grey + rng.randint(-8, 8))) for _ in range(3))
    canvas = Image.new("RGB", (side, side), background)
    mask = Image.new("L", (side, side) if masked else (1, 1))
    draw, draw_mask = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    for number, (colour, shape, count, size, place) in enumerate(groups, start=1):
        radius = rng.uniform(*SIZES[size]) * side
        fill = tuple(max(0, min(255, channel + rng.randint(-12, 12))) for channel in COLOURS[colour])
        for x, y in _centres(count, place, radius, side, rng):
            angle = rng.uniform(-0.2, 0.2)
            _draw_shape(draw, shape, x, y, radius, fill, background, angle)
            if masked:
                _draw_shape(draw_mask, shape, x, y, radius, number, 0, angle)
    return canvas, mask


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
    fill: tuple[int, ...] | int,
    background: tuple[int, ...] | int,
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
