"""`MaskedSource`: pictures of which it is known what each pixel shows."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from lightning_clip.data.sources.base import PairSource

__all__ = ["BACKGROUND", "UNLABELLED", "MaskedSource"]

BACKGROUND = -1  # shows none of the classes
UNLABELLED = 255  # nobody has said what it shows: never counted


class MaskedSource(PairSource):
    """Pictures with a mask each; `class_names` are what the numbers in masks stand for."""

    @abstractmethod
    def mask(self, index: int) -> Tensor:
        """int64 (H, W) of the picture's own size: indices of `class_names`, `BACKGROUND` or `UNLABELLED`."""
