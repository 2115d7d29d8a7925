"""What ranks tell each other beside the columns of a loss: who they are, what is wrong, and rows for losses of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from lightning_clip.core.errors import InputError

__all__ = ["AcrossRanks", "Gathered", "agree", "gather_rows", "on_any_rank", "world"]


def world() -> tuple[int, int]:
    """Rank and world size, asked of torch.distributed now; (0, 1) where there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def on_any_rank(flag: Tensor) -> Tensor:
    """Whether a boolean () is True on any rank; the same on all of them."""
    if world()[1] == 1:
        return flag
    found = flag.to(torch.int32)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.bool()


def agree(problem: str | None, header: Sequence[int], device: torch.device) -> list[list[int]]:
    """Tells every rank every other's header of small numbers, or raises the same error on all of them.

    Nothing else may be exchanged before: a rank that raised alone would leave the others waiting.

    Args:
        problem: what is wrong on this rank, or None.
        header: numbers, equally many on each rank.
        device: used where the process group cannot exchange numbers of the CPU, which costs a wait for the device.

    Returns:
        The headers in rank order.

    Raises:
        InputError: on every rank, if any of them had a problem.
    """
    world_size = world()[1]
    if world_size == 1:
        if problem:
            raise InputError(problem)
        return [list(header)]
    own = torch.tensor([int(problem is not None), *header], device=_device_of_numbers(device))
    parts = [torch.empty_like(own) for _ in range(world_size)]
    dist.all_gather(parts, own)
    headers: list[list[int]] = torch.stack(parts).tolist()
    if any(found[0] for found in headers):
        problems: list[str | None] = [None] * world_size
        dist.all_gather_object(problems, problem)
        raise InputError("; ".join(f"rank {place}: {text}" for place, text in enumerate(problems) if text))
    return [found[1:] for found in headers]


def _device_of_numbers(device: torch.device) -> torch.device:
    backend = dist.get_backend_config()
    return torch.device("cpu") if "cpu:gloo" in backend or dist.get_backend() == "gloo" else device


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
    """Concatenates the features (B, D) of all ranks, for losses of your own; ranks may bring different numbers of rows.

    The backward pass sums each row's gradient over all ranks. If every rank scores its own rows against all of them, and
    DDP then averages over ranks, the parameters receive the gradient of one process on the concatenated batch::

        rank 0:  rows 0..a      offset 0
        rank 1:  rows a..a+b    offset a
    """
    rank, world_size = world()
    if world_size == 1:
        return Gathered(features, 0, 1)
    lengths = [length for (length,) in agree(None, [len(features)], features.device)]
    padded = torch.nn.functional.pad(features, (0, 0, 0, max(lengths) - len(features)))
    parts = all_gather(padded.contiguous())  # type: ignore[no-untyped-call]
    rows = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return Gathered(rows, sum(lengths[:rank]), world_size)


class AcrossRanks:
    """What a loss asks of other ranks; for modules, whose `training` decides whether there are any.

    In evaluation a module is alone: ranks may hold different numbers of batches, and none waits for another.
    """

    training: bool

    def all_columns(self, features: Tensor) -> tuple[Tensor, int]:
        """The rows (N, D) of all ranks in rank order, with gradient, and where this rank's begin; ranks may bring different B.

        Args:
            features: (B, D) of this rank.
        """
        if not self.training:
            return features, 0
        gathered = gather_rows(features)
        return gathered.rows, gathered.offset

    def mean(self, per_row: Tensor) -> Tensor:
        """The mean () over the rows of all ranks, of which this rank gives its share times the number of ranks.

        After DDP's average over ranks the gradient is that of one process on all rows, also where ranks bring different B.

        Args:
            per_row: (B,) of this rank.
        """
        count, world_size = len(per_row), world()[1] if self.training else 1
        if world_size == 1:
            return per_row.mean()
        total = sum(length for (length,) in agree(None, [count], per_row.device))
        return per_row.sum() * (world_size / total)
