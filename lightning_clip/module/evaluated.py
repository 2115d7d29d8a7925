"""Losses of an evaluation: means over the samples of all ranks, of which some may have none."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_clip.core.distributed import gathered

__all__ = ["LossSums"]


class LossSums:
    """Sums over batches, by name.

    Lightning's own means wait at the end of an evaluation for every rank to have logged every name, which a rank without
    samples never does.

    Examples:
        >>> sums = LossSums()
        >>> sums.add({"loss": torch.tensor(1.0)}, rows=3)
        >>> sums.add({"loss": torch.tensor(2.0)}, rows=1)
        >>> sums.take()
        {'loss': 1.25}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Begins anew."""
        self._sums = {}

    def add(self, parts: Mapping[str, Tensor], rows: int) -> None:
        """One batch.

        Args:
            parts: name -> mean over its rows ().
            rows: of this rank.
        """
        for name, value in parts.items():
            mean = value.detach().reshape(()).to(_precise(value))
            weighed = torch.stack([mean * rows, torch.full_like(mean, rows)])  # (2,)
            self._sums[name] = self._sums[name] + weighed if name in self._sums else weighed

    def take(self) -> dict[str, float]:
        """The means of all ranks, each of which must ask; begins anew."""
        own = {name: found.tolist() for name, found in self._sums.items()}
        self.clear()
        parts = gathered(own)
        names = dict.fromkeys(name for part in parts for name in part)
        whole = {name: [sum(numbers) for numbers in zip(*(p[name] for p in parts if name in p), strict=True)] for name in names}
        return {name: total / rows for name, (total, rows) in whole.items()}


def _precise(value: Tensor) -> torch.dtype:
    """float64 where the device has it."""
    return torch.float32 if value.device.type == "mps" else torch.float64
