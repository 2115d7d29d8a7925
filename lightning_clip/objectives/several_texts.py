"""Several texts of an image as its positives: rewritten captions, parts of long ones, or all that people wrote."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_clip.core.settings import in_range
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.objectives.base import objectives
from lightning_clip.objectives.further_texts import FurtherTexts

__all__ = ["SeveralTexts"]


@objectives.register("several_texts")
class SeveralTexts(FurtherTexts):
    """Pairs with several texts of each image as positives (LaCLIP, Fan et al. 2023, arXiv 2305.20088; DreamLIP, StableRep).

    With softmax an image's target is spread evenly over its own texts, and each text's is its image:
    L = 1/2 mean_i [log sum_j e^(s u_i v_j) - mean_(j in P(i)) s u_i v_j]
      + 1/2 mean_j [log sum_i e^(s u_i v_j) - s u_(q(j)) v_j].

    Args:
        loss: "softmax", "sigmoid", a mapping or an object.
        count: texts a pair beside the chosen one, those after it in the order of its captions; pairs with fewer repeat theirs.
    """

    def __init__(self, loss: str | dict[str, Any] | ContrastiveLoss = "softmax", count: int = 1) -> None:
        in_range("several_texts: count", count, 1, whole=True)
        super().__init__(loss, count)

    def texts(self, chosen: str, captions: tuple[str, ...]) -> list[str]:
        at = captions.index(chosen) if chosen in captions else 0  # those after the chosen one: which they are is drawn with it
        others = [caption for caption in (*captions[at:], *captions[:at]) if caption != chosen] or [chosen]
        return [others[place % len(others)] for place in range(self.count)]

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        return self.matched(output, batch, positive=True) if self.training else super().forward(output, batch)

    def to_mapping(self) -> Any:
        return {"name": "several_texts", "loss": losses.describe(self.loss), "count": self.count}

    def inherited(self) -> Any | None:
        return {"name": "pairs", "loss": losses.describe(self.loss)}
