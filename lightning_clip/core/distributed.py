"""Messages between ranks: who they are, what is wrong on one of them, and the rows and means that losses need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather

from lightning_clip.core.errors import InputError

__all__ = ["AcrossRanks", "agree", "gathered", "mean_over_ranks", "world"]

T = TypeVar("T")
_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64)


def world() -> tuple[int, int]:
    """Rank and world size, asked of torch.distributed now; (0, 1) where there is none."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of numbers (K,) over all ranks, the same on all of them."""
    size = world()[1]
    if size == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / size


def gathered(value: T) -> list[T]:
    """What each rank gives, in rank order; every rank must ask.

    Args:
        value: of plain types.
    """
    found: list[Any] = [value] * world()[1]
    if len(found) > 1:
        dist.all_gather_object(found, value)
    return found


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
        raise InputError("; ".join(f"rank {place}: {text}" for place, text in enumerate(gathered(problem)) if text))
    return [found[1:] for found in headers]


def _device_of_numbers(device: torch.device) -> torch.device:
    backend = dist.get_backend_config()
    return torch.device("cpu") if "cpu:gloo" in backend or dist.get_backend() == "gloo" else device


class AcrossRanks:
    """What a loss asks of other ranks; for modules, whose `training` decides whether there are any.

    In evaluation a module is alone: ranks may hold different numbers of batches, and none waits for another. In training every
    rank calls the same methods in the same order, which Lightning's loop sees to; what does not fit is an error on all of them.
    """

    training: bool

    def all_columns(self, features: Tensor) -> tuple[Tensor, int]:
        """The rows (N, D) of all ranks in rank order, and how many come before this rank's own; ranks may bring different B.

        Gradients flow back to the rank that owns a row, summed over the ranks that used it. In evaluation, and where one
        process runs, N is B and the number 0::

            rank 0:  rows 0..a      offset 0
            rank 1:  rows a..a+b    offset a

        Args:
            features: (B, D) or (B,) of this rank: floating point, or int64 such as ids.

        Raises:
            InputError: on every rank, where they differ in shape or type, or it is another than these.
        """
        rank, world_size = world()
        problem = _problem_of_rows(features)
        if not self.training or world_size == 1:
            if problem:
                raise InputError(problem)
            return features, 0
        lengths = _lengths(features, problem)
        # Collectives want equal shapes: the shorter ranks bring rows of zeros, cut off again below.
        missing = features.new_zeros(max(lengths) - len(features), *features.shape[1:])
        parts = all_gather(torch.cat([features, missing]))  # type: ignore[no-untyped-call]  # (B, D) -> W x (longest, D)
        rows = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])  # -> (N, D)
        return rows, sum(lengths[:rank])

    def mean(self, per_row: Tensor) -> Tensor:
        """The mean () over the rows of all ranks, of which this rank gives its share times the number of ranks.

        After DDP's average over ranks the gradient is that of one process on all rows, also where ranks bring different B: a
        plain mean would weigh the rows of a small rank more. In evaluation it is the mean of this rank's rows.

        Args:
            per_row: a value (B,) for each row of this rank.

        Raises:
            InputError: on every rank, where it is not (B,) or has no rows on one of them.
        """
        problem = None
        if per_row.ndim != 1:
            problem = f"mean: per_row {tuple(per_row.shape)} must be (B,), a value for each row of this rank"
        elif not len(per_row):
            problem = "mean: per_row (0,) has no rows: drop the batch, or give each rank at least one sample"
        world_size = world()[1] if self.training else 1
        if world_size == 1:
            if problem:
                raise InputError(problem)
            return per_row.mean()
        total = sum(length for (length,) in agree(problem, [per_row.numel()], per_row.device))
        return per_row.sum() * (world_size / total)


def _lengths(features: Tensor, problem: str | None) -> list[int]:
    """Rows of each rank, once all ranks agree on the rest of the shape and on the type."""
    width = features.shape[1] if features.ndim == 2 else 0
    kind = _TYPES.index(features.dtype) if features.dtype in _TYPES else 0
    headers = agree(problem, [features.shape[0] if features.ndim else 0, width, kind], features.device)
    if len({tuple(found[1:]) for found in headers}) > 1:
        shapes = [f"(B, {columns})" if columns else "(B,)" for _, columns, _ in headers]
        listing = ", ".join(f"rank {rank} {shapes[rank]} {_TYPES[kind]}" for rank, (_, _, kind) in enumerate(headers))
        raise InputError(f"all_columns: features differ in width or type: {listing}. Build the same model on every rank.")
    return [length for length, _, _ in headers]


def _problem_of_rows(features: Tensor) -> str | None:
    if features.ndim not in (1, 2):
        return f"all_columns: features {tuple(features.shape)} must be (B, D) or (B,)"
    if features.dtype not in _TYPES:
        return f"all_columns: features are {features.dtype}, expected one of {', '.join(map(str, _TYPES))}"
    return None
