"""Rendered clips of moving shapes, with captions that differ in the order of the moves alone."""

from __future__ import annotations

import random
from itertools import product

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.drawing import COLOURS, SHAPES, Look, render_at
from lightning_clip.data.sampler import visit_seed
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.data.synthetic import SPLITS, counted

__all__ = ["MovingShapes", "orders", "positions"]

_STEPS = {"left": (-1, 0), "up": (0, -1), "right": (1, 0), "down": (0, 1)}
_ROUND = ("left", "up", "right", "down")  # clockwise
_SPREAD = 0.25  # of the corners from the middle, in sides of the picture
_MOST_SHIFT = 0.04


def orders(moves: int = 4) -> list[tuple[str, ...]]:
    """The orders in which a shape moves: all visit the same places, so that a set of frames does not tell them apart.

    Args:
        moves: 4 for once around a square, in eight orders; 2 for there and back, in four.

    Examples:
        >>> orders(4)[0], len(orders(4)), orders(2)
        (('left', 'up', 'right', 'down'), 8, [('left', 'right'), ('up', 'down'), ('right', 'left'), ('down', 'up')])
    """
    if moves == 2:
        return [(move, _ROUND[(number + 2) % 4]) for number, move in enumerate(_ROUND)]
    around = (_ROUND, _ROUND[::-1])
    return [way[start:] + way[:start] for way in around for start in range(4)]


def positions(order: tuple[str, ...], frames: int) -> Tensor:
    """Centres (frames, 2) of a shape, in units of which a side of the square has 2, from its middle.

    The frames are spread evenly over the way, the last one before the end: of a closed way each place is seen once.

    Args:
        order: of the moves.
        frames: at least 2.

    Examples:
        >>> positions(("left", "up", "right", "down"), 4).tolist()
        [[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]]
    """
    steps = torch.tensor([_STEPS[move] for move in order], dtype=torch.float64)
    corners = torch.cat([torch.zeros(1, 2, dtype=torch.float64), 2 * steps.cumsum(dim=0)])  # (moves + 1, 2)
    corners = corners - (corners.amin(dim=0) + corners.amax(dim=0)) / 2
    if len(order) == 2:  # there and back: each place is passed twice, at the same two distances from the turn
        at = (torch.arange(frames, dtype=torch.float64) + 0.5) * len(order) / frames
    else:
        at = torch.arange(frames, dtype=torch.float64) * len(order) / frames
    number = at.long()
    return corners[number] + (at - number)[:, None] * (corners[number + 1] - corners[number])


@pair_sources.register("moving_shapes")
class MovingShapes(PairSource):
    """Clips of a shape that moves, such as "a red circle moves left, then up, then right, then down".

    Each object is shown in all orders of the moves, which go through the very same frames: captions of one object differ in
    the order of their words alone, clips in the order of their frames. Mean pooling over frames cannot tell them apart.
    Column "video" is uint8 (frames, 3, S, S); the label is the number of the order in `orders(moves)`.

    Args:
        split: "train", "val" or "test", which differ in their jitter.
        size: number of clips; the first ones go round all objects and orders, so that a test of `objects` times the number of
            orders has each caption once.
        image_size: side S in pixels.
        frames: of a clip, at least 2.
        moves: 4 for once around a square, 2 for there and back.
        objects: how many of the 64 combinations of colour and shape occur.
        seed: chooses the clips; clip i is a function of (seed, split, i).

    Raises:
        InputError: an unknown split, or a value out of range.

    Examples:
        >>> clips = MovingShapes("test", size=8, objects=1)
        >>> clips[0].columns["video"].shape, clips[1].captions
        (torch.Size([8, 3, 32, 32]), ('a red circle moves up, then right, then down, then left',))
    """

    def __init__(
        self,
        split: str = "train",
        size: int = 20_000,
        *,
        image_size: int = 32,
        frames: int = 8,
        moves: int = 4,
        objects: int = 16,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"moving_shapes split {split!r} must be one of {', '.join(SPLITS)}")
        if moves not in (2, 4):
            raise InputError(f"moving_shapes: moves {moves!r} must be 2 (there and back) or 4 (around a square)")
        in_range("moving_shapes: size", size, 1, whole=True)
        in_range("moving_shapes: image_size", image_size, 8, whole=True)
        in_range("moving_shapes: frames", frames, 2, whole=True)
        in_range("moving_shapes: objects", objects, 1, len(COLOURS) * len(SHAPES), whole=True)
        self.split, self.size, self.image_size, self.frames = split, size, image_size, frames
        self.moves, self.objects, self.seed = moves, objects, seed
        # Few objects have few colours and few shapes that are unlike, each combination of them.
        side = next(number for number in range(1, 9) if number * number >= objects)
        self._objects = list(product(list(COLOURS)[:: 8 // side][:side], SHAPES[:: 8 // side][:side]))[:objects]
        self._orders = orders(moves)
        self._ways = [positions(order, frames) for order in self._orders]
        self.class_names = ["moves " + ", then ".join(order) for order in self._orders]

    def __len__(self) -> int:
        return self.size

    def captions(self, index: int) -> tuple[str, ...]:
        (colour, shape), order = self._chosen(index)
        return (f"{counted(1, shape, colour)} {self.class_names[order]}",)

    def label(self, index: int) -> int:
        return self._chosen(index)[1]

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.size:
            raise IndexError(index)
        (colour, shape), order = self._chosen(index)
        rng = random.Random(visit_seed(self.seed, SPLITS.index(self.split), index))
        look = Look.drawn(colour, shape, rng)
        shift = [0.5 + rng.uniform(-_MOST_SHIFT, _MOST_SHIFT) for _ in range(2)]
        frames = [
            pil_to_tensor(render_at(look, (shift[0] + _SPREAD * x, shift[1] + _SPREAD * y), self.image_size))
            for x, y in self._ways[order].tolist()
        ]
        return Pair(
            image=None,
            captions=self.captions(index),
            key=f"{self.split}/{index:08d}",
            label=order,
            columns={"video": torch.stack(frames)},  # (T, 3, S, S)
        )

    def _chosen(self, index: int) -> tuple[tuple[str, str], int]:
        """Object and order of a clip."""
        every = len(self._objects) * len(self._orders)
        return self._objects[index % every // len(self._orders)], index % len(self._orders)
