"""Images and texts that match by ids in every way, for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from reference import loops
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.losses import losses

BOTH = ["softmax", "sigmoid"]
# Ids of images and of texts.
CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "swapped captions": ([0, 1, 2, 3], [0, 1, 2, 3, -1, -1, -1, -1]),
    "three captions": ([0, 1, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2]),
    "shuffled": ([4, 2, 3], [3, 4, 4, 2, 9]),
    "images without a text": ([5, -1, 6, 7], [6, 5]),
    "labels": ([0, 0, 0, 1, 1, 2, -1], [0, 0, 1, 1, 2, 2, 9, 9, 0]),
    "one text": ([3, 3, 4], [3]),
    "one image": ([3], [3, 3, 8]),
    "two columns": ([(7, 1), (8, 2), (9, 2), (7, 3), (10, 4), (7, -1)], [(7, 1), (8, 2), (-1, 2), (7, 3), (5, 6), (7, -1)]),
}  # fmt: skip


def unit(count: int, seed: int, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def case(name: str) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], set[tuple[int, int]]]:
    """Features, ids as tensors, and the matches."""
    own = CASES[name]
    tuples = [[row if isinstance(row, tuple) else (row,) for row in side] for side in own]
    ids = torch.tensor(own[0]), torch.tensor(own[1])
    return unit(len(own[0]), 0), unit(len(own[1]), 1), ids, loops.matches(*tuples)


def measured(
    settings_of: dict[str, Any], values: list[Tensor], ids: tuple[Tensor, Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    inputs = [value.clone().requires_grad_() for value in values]
    loss = losses.build(settings_of)(*inputs, positives=ids)
    loss.backward()
    return loss.detach(), [value.grad for value in inputs]


def relative(found: Tensor | None, expected: Tensor | np.ndarray) -> float:
    assert found is not None
    reference = torch.as_tensor(expected, dtype=torch.float64)
    return float((found.double() - reference).norm() / reference.norm().clamp(min=1e-9))
