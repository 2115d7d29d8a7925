"""Rendered scenes of several different objects, with a caption that names them a mask and a box of where each is."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import product

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.boxes import BOXES, BoxedSource, Boxes
from lightning_clip.data.drawing import COLOURS, PLACES, SHAPES, Group, render, render_with_boxes, render_with_mask
from lightning_clip.data.masks import BACKGROUND, MaskedSource
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import pair_sources
from lightning_clip.data.synthetic import SPLITS, combination_names, counted, held_out_combinations

__all__ = ["SyntheticObjects"]

_MOST = len(PLACES)
_OPENINGS = ("", "a picture of ", "a photo of ", "a drawing of ", "there is ", "this image shows ")
_SALT = 101  # so that no scene has the seed of one of `SyntheticScenes`
_ALONE = 0.5  # how often a caption names one object only, as people do


@pair_sources.register("objects")
class SyntheticObjects(MaskedSource, BoxedSource):
    """Rendered scenes of several objects of different colours and shapes, with captions that name all of them or one.

    Args:
        split: "train" shows seen combinations of colour and shape only, "val" and "test" all of them, from other seeds.
        size: number of scenes.
        objects: in each scene, from 1 to 4.
        image_size: side in pixels.
        seed: chooses the scenes; scene i is a function of (seed, split, objects, i).
        boxes: pairs have the column "boxes", which the objective "detection" learns from.

    Examples:
        >>> scenes = SyntheticObjects("test", size=10)
        >>> sorted(scenes.mask(3).unique().tolist()) == [-1, *sorted(scenes.labels(3))]
        True
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 100_000,
        *,
        objects: int = 2,
        image_size: int = 64,
        seed: int = 0,
        boxes: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"objects split {split!r} must be one of {', '.join(SPLITS)}")
        in_range("objects size", size, 1, whole=True)
        in_range("objects", objects, 1, _MOST, whole=True)
        in_range("objects image_size", image_size, 8, whole=True)
        self.split, self.size, self.objects, self.image_size, self.seed = split, size, objects, image_size, seed
        self.has_boxes = boxes
        self.class_names = combination_names()
        self._labels = {name: label for label, name in enumerate(self.class_names)}
        hidden = set(held_out_combinations()) if split == "train" else set()
        self._combinations = [pair for pair in product(COLOURS, SHAPES) if pair not in hidden]

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Pair:
        groups, rng = self._groups(index)
        caption = _caption(groups, random.Random(rng.random()))
        labels = [self._label(group) for group in groups]
        picture, places = render_with_boxes(groups, self.image_size, rng) if self.has_boxes else (None, [])
        return Pair(
            image=pil_to_tensor(render(groups, self.image_size, rng) if picture is None else picture),
            captions=(caption,),
            key=f"{self.split}/{index:08d}",
            label=labels[0] if len(labels) == 1 else None,
            metadata={"labels": labels},
            columns={BOXES: _boxes(places, labels)} if self.has_boxes else {},
        )

    def mask(self, index: int) -> Tensor:
        """int64 (S, S): the combination of each object, `BACKGROUND` elsewhere."""
        groups, rng = self._groups(index)
        rng.random()  # of the caption
        numbers = pil_to_tensor(render_with_mask(groups, self.image_size, rng)[1])[0].long()  # (1, S, S) -> (S, S)
        return torch.tensor([BACKGROUND, *(self._label(group) for group in groups)])[numbers]

    def boxes(self, index: int) -> Boxes:
        groups, rng = self._groups(index)
        rng.random()  # of the caption
        places = render_with_boxes(groups, self.image_size, rng)[1]
        return _boxes(places, [self._label(group) for group in groups])

    def class_groups(self) -> Mapping[str, Sequence[str]]:
        return {"seen": combination_names(held_out=False), "held_out": combination_names(held_out=True)}

    def labels(self, index: int) -> list[int]:
        """Classes of the objects of a scene, in the order in which they were drawn."""
        return [self._label(group) for group in self._groups(index)[0]]

    def _label(self, group: Group) -> int:
        return self._labels[f"{group.colour} {group.shape}"]

    def _groups(self, index: int) -> tuple[list[Group], random.Random]:
        """What is in a scene, and the numbers that it is drawn with."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(visit_seed(self.seed, SPLITS.index(self.split) + _SALT * self.objects, index))
        chosen: list[tuple[str, str]] = []
        while len(chosen) < self.objects:
            colour, shape = rng.choice(self._combinations)
            if all(colour != other and shape != kind for other, kind in chosen):
                chosen.append((colour, shape))
        places = rng.sample(sorted(PLACES), self.objects)
        # Large ones have room for each other only where they face each other.
        room = self.objects == 1 or set(places) in ({"on the left", "on the right"}, {"at the top", "at the bottom"})
        sizes = [rng.choice(("small", "large")) if room else "small" for _ in chosen]
        return [Group(*pair, 1, size, place) for pair, size, place in zip(chosen, sizes, places, strict=True)], rng


def _boxes(places: Sequence[tuple[float, ...] | None], labels: Sequence[int]) -> Boxes:
    """Those of objects of which something is seen."""
    seen = [(place, label) for place, label in zip(places, labels, strict=True) if place is not None]
    return Boxes.of([place for place, _ in seen], [label for _, label in seen])


def _caption(groups: list[Group], rng: random.Random) -> str:
    """All objects in any order, or one of them; with their places or without."""
    named = rng.sample(groups, 1 if rng.random() < _ALONE else len(groups))
    placed = rng.random() < 0.5
    phrases = [counted(1, group.shape, group.colour, after=group.place if placed else "") for group in named]
    return rng.choice(_OPENINGS) + " and ".join(phrases)
