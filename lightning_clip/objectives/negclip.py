"""Pairs with swapped captions among the negatives: who did what to whom, and which of them was red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.swaps import GROUPS, swapped
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.further_texts import FurtherTexts

__all__ = ["HardNegatives"]


@objectives.register("negclip")
class HardNegatives(FurtherTexts):
    """Pairs with a swapped caption of each pair among the negatives (NegCLIP, Yuksekgonul et al. 2023, arXiv 2210.01936).

    An image chooses among 2N texts, a text of a pair among N images; swapped texts choose nothing:
    L = 1/2 mean_i [log sum_(j <= 2N) e^(s u_i v_j) - s u_i v_i] + 1/2 mean_i [log sum_(j <= N) e^(s u_j v_i) - s u_i v_i].

    Args:
        loss: "softmax", "sigmoid", a mapping or an object.
        groups: name -> words that stand for each other, in any language; None takes English ones. See `data.swaps`.
    """

    def __init__(
        self, loss: str | dict[str, Any] | ContrastiveLoss = "softmax", groups: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(loss, 1)
        self.groups = groups

    def texts(self, chosen: str, captions: tuple[str, ...]) -> list[str]:
        return [swapped(chosen, GROUPS if self.groups is None else self.groups)]

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return self.matched(output, batch, positive=False) if self.training else super().forward(output, batch)

    def to_mapping(self) -> Any:
        return {"name": "negclip", "loss": losses.describe(self.loss), "groups": self.groups}

    def inherited(self) -> Any | None:
        return {"name": "pairs", "loss": losses.describe(self.loss)}
