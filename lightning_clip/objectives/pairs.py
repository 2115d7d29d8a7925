"""Contrastive pairs: two columns of one batch, each row belonging to its own (Radford et al. 2021, section 2.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.losses import ContrastiveLoss, caption_ids, losses
from lightning_clip.model.build import Temperature
from lightning_clip.objectives.base import Objective, objectives

__all__ = ["ContrastivePairs"]


@objectives.register("pairs")
class ContrastivePairs(Objective):
    """A contrastive loss between the features of two columns.

    Args:
        loss: "softmax", "sigmoid", a mapping, or a `ContrastiveLoss`.
        between: the two columns.

    Raises:
        InputError: not two columns, or an unknown loss.

    Examples:
        >>> ContrastivePairs("sigmoid").to_mapping()["between"]
        ['image', 'text']
    """

    def __init__(
        self, loss: str | dict[str, Any] | ContrastiveLoss = "softmax", between: tuple[str, str] = ("image", "text")
    ) -> None:
        super().__init__()
        if len(between) != 2 or between[0] == between[1]:
            raise InputError(f"objective 'pairs': between {list(between)} must be two columns, such as [image, text]")
        self.loss: ContrastiveLoss = losses.build(loss)
        self.between = (between[0], between[1])
        self.max_scale = self.loss.max_scale

    def reads(self) -> tuple[str, ...]:
        return self.between

    def initial_temperature(self) -> Temperature:
        return Temperature(self.loss.initial_scale, self.loss.initial_bias, self.loss.learn_scale)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        first, second = (output.features[column] for column in self.between)
        options = {"positives": self.positives(batch)} if self.loss.duplicates else {}
        return {"loss": self.loss(first, second, output.scale, output.bias, **options)}

    def positives(self, batch: PairBatch) -> Tensor:
        """Ids int64 (B, K) for losses with `duplicates`: rows equal in any column count as pairs of each other.

        Here the sample's place in its source and, where there are texts, a hash of the caption's tokens.
        """
        if batch.tokens is None or batch.mask is None:
            return batch.index[:, None]
        return torch.stack([batch.index, caption_ids(batch.tokens, batch.mask)], dim=1)

    def is_given(self, batch: PairBatch) -> bool:
        captioned = "text" not in self.between or (bool(batch.captions) and all(batch.captions))
        return captioned and super().is_given(batch)

    def to_mapping(self) -> Any:
        return {"name": "pairs", "loss": losses.describe(self.loss), "between": list(self.between)}
