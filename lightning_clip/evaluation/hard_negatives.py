"""Hard negatives ("twins"): two rendered scenes that differ in one thing, with captions of the same words or all but one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.drawing import COLOURS, PLACES, SHAPES, Group, render
from lightning_clip.data.synthetic import counted

__all__ = ["TWINS", "TwinScores", "Twins", "make_twins", "twin_scores"]

_SIDES = ("on the left", "on the right")


class Twins(NamedTuple):
    """Two images and their captions; caption i belongs to image i.

    Attributes:
        images: two uint8 (3, S, S).
        captions: two.
    """

    images: tuple[Tensor, Tensor]
    captions: tuple[str, str]


def _beside(*things: tuple[str, str]) -> list[Group]:
    """Two things, (colour, shape) each, the first on the left."""
    return [Group(colour, shape, 1, "small", place) for (colour, shape), place in zip(things, _SIDES, strict=True)]


def _two(rng: random.Random) -> tuple[list[str], list[str]]:
    return rng.sample(sorted(COLOURS), 2), rng.sample(SHAPES, 2)


def _order(rng: random.Random) -> tuple[list[Group], list[Group]]:
    """The two things change places: so do the words."""
    first, second = zip(*_two(rng), strict=True)
    return _beside(first, second), _beside(second, first)


def _colours(rng: random.Random) -> tuple[list[Group], list[Group]]:
    """The two things change colours."""
    (red, blue), (circle, square) = _two(rng)
    return _beside((red, circle), (blue, square)), _beside((blue, circle), (red, square))


def _counts(rng: random.Random) -> tuple[list[Group], list[Group]]:
    """One, two or three of a thing."""
    colour, shape, place = rng.choice(sorted(COLOURS)), rng.choice(SHAPES), rng.choice(sorted(PLACES))
    one, other = ([Group(colour, shape, count, "small", place)] for count in rng.sample((1, 2, 3), 2))
    return one, other


def _places(rng: random.Random) -> tuple[list[Group], list[Group]]:
    """A thing in one place or in another."""
    colour, shape = rng.choice(sorted(COLOURS)), rng.choice(SHAPES)
    one, other = ([Group(colour, shape, 1, "large", place)] for place in rng.sample(sorted(PLACES), 2))
    return one, other


TWINS: dict[str, Callable[[random.Random], tuple[list[Group], list[Group]]]] = {
    "order": _order,
    "colours": _colours,
    "counts": _counts,
    "places": _places,
}


def make_twins(kind: str, number: int, seed: int = 0, image_size: int = 64) -> Twins:
    """Twins by number, a pure function of all arguments.

    Args:
        kind: one of `TWINS`.
        number: which pair.
        seed: of all.
        image_size: side in pixels.

    Raises:
        InputError: an unknown kind.

    Examples:
        >>> make_twins("counts", 0).captions
        ('three red crescents on the left', 'two red crescents on the left')
    """
    if kind not in TWINS:
        raise InputError(f"unknown kind of twins {kind!r}: {nearest(kind, TWINS)}")
    rng = random.Random(f"{seed} {kind} {number}")
    scenes = TWINS[kind](rng)
    jitter = rng.random()  # the same for both: they differ in one thing
    pictures = tuple(pil_to_tensor(render(scene, image_size, random.Random(jitter))) for scene in scenes)
    captions = tuple(
        " and ".join(counted(g.number, g.shape, "", g.colour, after=g.place) for g in sorted(scene, key=lambda g: g.place))
        for scene in scenes
    )
    return Twins(pictures, captions)  # type: ignore[arg-type]


class TwinScores(NamedTuple):
    """Which twins were distinguished, bool (N,) each (Thrush et al. 2022, Winoground, section 3.3).

    Attributes:
        text: for each image its own caption scores higher than the other.
        image: for each caption its own image does.
        group: both.
    """

    text: Tensor
    image: Tensor
    group: Tensor


def twin_scores(scores: Tensor) -> TwinScores:
    """Which twins a model distinguishes; equal scores count against it.

    Guessing gets 1/4, 1/4 and 1/6.

    Args:
        scores: float (N, 2, 2), scores[n, c, i] of caption c with image i.

    Examples:
        >>> [bool(part) for part in twin_scores(torch.tensor([[[0.9, 0.8], [0.1, 0.2]]]))]
        [False, True, False]
    """
    first, second, third, fourth = scores[:, 0, 0], scores[:, 1, 1], scores[:, 1, 0], scores[:, 0, 1]
    text = (first > third) & (second > fourth)
    image = (first > fourth) & (second > third)
    return TwinScores(text, image, torch.logical_and(text, image))
