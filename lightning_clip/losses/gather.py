"""Differentiable exchange of features between ranks; the only file that talks to torch.distributed about losses."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

__all__ = ["Gathered", "gather_rows"]


class Gathered(NamedTuple):
    """The rows of all ranks in rank order, and where this rank's begin.

    Attributes:
        rows: (N, D), N being the sum of all ranks' rows; gradients flow back to the rank that owns a row.
        offset: index of this rank's first row in `rows`.
        world_size: number of ranks that took part.
    """

    rows: Tensor
    offset: int
    world_size: int


def gather_rows(features: Tensor) -> Gathered:
    """Concatenates the features (B, D) of all ranks; ranks may bring different numbers of rows.

    Rank and world size are asked at call time. With one process the features are handed back as they are.
    The backward pass sums each row's gradient over all ranks. If every rank scores its own rows against all of them, and
    DDP then averages over ranks, the parameters receive the gradient of one process on the concatenated batch::

        rank 0:  rows 0..a      offset 0
        rank 1:  rows a..a+b    offset a
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return Gathered(features, 0, 1)
    world_size, rank = dist.get_world_size(), dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.long, device=features.device) for _ in range(world_size)]
    dist.all_gather(sizes, torch.tensor([len(features)], device=features.device))
    lengths = [int(size) for size in torch.cat(sizes).tolist()]
    # all_gather wants equal shapes: the shorter ranks bring rows of zeros, cut off again below.
    padded = torch.nn.functional.pad(features, (0, 0, 0, max(lengths) - len(features)))
    parts = all_gather(padded.contiguous())  # type: ignore[no-untyped-call]
    rows = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return Gathered(rows, sum(lengths[:rank]), world_size)
