"""Endless rendered scenes with captions: coloured shapes of several sizes, places and counts, a pure function of the seed."""

from __future__ import annotations

import random
from itertools import product

from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.drawing import COLOURS, PLACES, SHAPES, SIZES, Group, render
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import PairSource, pair_sources

__all__ = ["SPLITS", "SyntheticScenes", "combination_names", "counted", "held_out_combinations"]

SPLITS = ("train", "val", "test")
_COUNTS = {1: "a", 2: "two", 3: "three"}
_OPENINGS = ("", "a picture of ", "a photo of ", "a drawing of ", "there is ", "this image shows ")
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
        count, size, place = rng.choice(list(_COUNTS)), rng.choice(list(SIZES)), rng.choice(list(PLACES))
        image = render([Group(colour, shape, count, size, place)], self.image_size, rng)
        return Pair(
            image=pil_to_tensor(image),
            captions=(_caption(colour, shape, count, size, place, rng),),
            key=f"{self.split}/{index:08d}",
            label=self._labels[f"{colour} {shape}"],
        )


def counted(count: int, noun: str, *before: str, after: str = "") -> str:
    """Words for one to three shapes.

    Args:
        count: of them.
        noun: one of `SHAPES`, or "shape".
        before: adjectives, "" for none.
        after: where they are.

    Examples:
        >>> counted(1, "circle", "", "orange"), counted(2, "cross", "large", after="on the left")
        ('an orange circle', 'two large crosses on the left')
    """
    nouns = noun if count == 1 else ("crosses" if noun == "cross" else f"{noun}s")
    return " ".join(word for word in (_COUNTS[count], *before, nouns, after) if word).replace("a orange", "an orange")


def _caption(colour: str, shape: str, count: int, size: str, place: str, rng: random.Random) -> str:
    """A caption that leaves out what people leave out: now and then the colour or the shape, sometimes size or place."""
    silent = rng.random()
    noun = "shape" if silent < _SILENCE else shape
    named_size = size if rng.random() < _MENTION else ""
    named_colour = "" if _SILENCE <= silent < 2 * _SILENCE else colour
    phrase = counted(count, noun, named_size, named_colour, after=place if rng.random() < _MENTION else "")
    return rng.choice(_OPENINGS) + phrase
