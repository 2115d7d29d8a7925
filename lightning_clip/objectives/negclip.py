"""Pairs with swapped captions among the negatives: who did what to whom, and which of them was red."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.swaps import GROUPS, swaps
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.training_captions import training_captions
from lightning_clip.data.words import words_in
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.further_texts import FurtherTexts

__all__ = ["HardNegatives"]


@objectives.register("negclip")
class HardNegatives(FurtherTexts):
    """Pairs with swapped captions of each pair among the negatives (NegCLIP, Yuksekgonul et al. 2023, arXiv 2210.01936).

    With K of them, one in the paper, an image chooses among (1 + K) N texts, a text of a pair among N images; swapped texts
    choose nothing:
    L = 1/2 mean_i [log sum_(j <= N + K N) e^(s u_i v_j) - s u_i v_i] + 1/2 mean_i [log sum_(j <= N) e^(s u_j v_i) - s u_i v_i].

    A word of a group gives way to those words of it alone that the training captions hold: one that no caption ever says would
    be told apart without a look at the image.

    Args:
        loss: "softmax", "sigmoid", a mapping or an object.
        groups: name -> words that stand for each other, in any language; None takes English ones. See `data.swaps`.
        count: K, swapped captions of each pair; each costs a pass of the text tower.
    """

    def __init__(
        self,
        loss: str | dict[str, Any] | ContrastiveLoss = "softmax",
        groups: Mapping[str, Sequence[str]] | None = None,
        count: int = 1,
    ) -> None:
        in_range("negclip: count", count, 1, whole=True)
        super().__init__(loss, count)
        self.groups = groups
        self._said: Mapping[str, Sequence[str]] = GROUPS if groups is None else groups

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        super().prepare(data, tokenizer)
        groups = GROUPS if self.groups is None else self.groups
        if heard := {word for texts in training_captions(data) for text in texts for word in words_in(text)}:
            self._said = {name: [word for word in words if word.lower() in heard] for name, words in groups.items()}

    def texts(self, chosen: str, captions: tuple[str, ...]) -> list[str]:
        return swaps(chosen, self.count, self._said)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return self.matched(output, batch, positive=False) if self.training else super().forward(output, batch)

    def to_mapping(self) -> Any:
        return {"name": "negclip", "loss": losses.describe(self.loss), "groups": self.groups, "count": self.count}

    def inherited(self) -> Any | None:
        return {"name": "pairs", "loss": losses.describe(self.loss)}
