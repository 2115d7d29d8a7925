"""Guards of a training step: against losses that are not finite, and against ranks that wait for one that stopped."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from lightning_clip.core.distributed import agree
from lightning_clip.core.errors import InputError

__all__ = ["ChanceWatch", "FiniteGuard", "check_even", "drop_gradients", "gradient_norm"]


class FiniteGuard:
    """Watches the loss of each step; of its mean over all ranks the verdict is the same on every one.

    Args:
        policy: "stop" raises, "skip" reports that the step is to be skipped, "ignore" does nothing.
    """

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.skipped = 0
        self._before: Tensor | None = None

    def watch(self, loss: Tensor, step: int) -> bool:
        """Whether the step is to be skipped.

        Args:
            loss: (), the mean over all ranks, which is finite where each rank's is.
            step: its number, for the message.

        Raises:
            InputError: under "stop", if this loss is not finite; on an accelerator, if the one before was not, so that
                no step waits for the device.
        """
        if self.policy == "ignore":
            return False
        found = ~loss.detach().isfinite()
        if self.policy == "skip":
            bad = bool(found)
            self.skipped += bad
            return bad
        delayed = found.device.type != "cpu"
        asked, self._before = (self._before, found) if delayed else (found, None)
        if asked is not None and bool(asked):
            raise InputError(
                f"the loss of step {step - delayed} is not finite on some rank: lower optimizer.lr, clip gradients "
                "(trainer.gradient_clip_val), or set execution.non_finite to 'skip'. The last checkpoint is untouched."
            )
        return False


class ChanceWatch:
    """Watches whether a softmax loss stays at log B, where all features are alike; speaks once.

    Args:
        steps: so many in a row.
        near: within so much of log B, in nats.

    Examples:
        >>> watch = ChanceWatch(steps=2)
        >>> [watch.watch(torch.tensor(loss), 8, asked=True) for loss in (2.08, 2.08, 2.08)]  # log 8 = 2.079
        [False, True, False]
    """

    def __init__(self, steps: int = 100, near: float = 0.002) -> None:
        self.steps, self.near, self.told = steps, near, False
        self._count: Tensor | None = None

    def watch(self, loss: Tensor, rows: int, asked: bool) -> bool:
        """Whether it is time to say so.

        Args:
            loss: () of a step.
            rows: B, of all ranks.
            asked: False only counts, without waiting for the device.
        """
        if self.told or rows < 2:
            return False
        count = torch.zeros_like(loss) if self._count is None else self._count
        self._count = torch.where((loss - math.log(rows)).abs() < self.near, count + 1, 0)
        self.told = asked and float(self._count) >= self.steps
        return self.told


def check_even(count: int, device: torch.device) -> None:
    """Refuses batches of different size where every pass through a tower is a collective, before ranks wait for each other.

    Raises:
        InputError: on every rank, with the sizes.
    """
    counts = [found for (found,) in agree(None, [count], device)]
    if len(set(counts)) > 1:
        raise InputError(
            f"under this strategy all ranks need batches of one size, they have {counts}: mend or remove the samples that "
            "were skipped, or use strategy 'ddp', which takes any"
        )


def drop_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Leaves an optimizer nothing to do: parameters and its moments stay as they are."""
    for parameter in parameters:
        parameter.grad = None


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The Euclidean norm () of all gradients together, whole also where they are sharded."""
    norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
