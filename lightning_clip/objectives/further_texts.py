"""Further texts of each pair in a step, encoded slice by slice: what objectives that add positives or negatives share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.losses import ContrastiveLoss
from lightning_clip.losses.matches import NOBODY
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives.pairs import ContrastivePairs

__all__ = ["FurtherTexts"]


class FurtherTexts(ContrastivePairs):
    """Pairs of images and texts with K further texts a pair, which are tokenized here.

    Args:
        loss: "softmax", "sigmoid", a mapping or an object.
        count: K.
    """

    def __init__(self, loss: str | dict[str, Any] | ContrastiveLoss, count: int) -> None:
        super().__init__(loss)
        self.count = count
        self._tokenizer: list[Tokenizer] = []  # in a list: no part of the module

    def further_values(self) -> Mapping[str, int]:
        return {"text": self.count}

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        if tokenizer is None:
            raise InputError(f"objective {type(self).__name__} encodes further texts and needs a tokenizer: give one")
        self._tokenizer = [tokenizer]

    def texts(self, chosen: str, captions: tuple[str, ...]) -> list[str]:
        """K texts of a pair.

        Args:
            chosen: the caption that is its own.
            captions: all that it has.
        """
        raise NotImplementedError

    def rows(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        if not self.training:
            return {}
        assert batch.texts is not None
        texts = [text for pair in zip(batch.texts, batch.captions, strict=True) for text in self.texts(*pair)]
        tokens, mask = self._tokenizer[0](texts)  # (B K, L)
        lengths, device = mask.sum(dim=1).tolist(), batch.index.device
        further = space.encode_text(tokens.to(device), mask.to(device), lengths)  # (B K, D)
        own = [text for text in batch.texts for _ in range(self.count)]
        same = torch.tensor([text == mine for text, mine in zip(texts, own, strict=True)], device=device)
        return {"further": further.view(batch.size, self.count, -1), "same": same.view(batch.size, self.count)}

    def matched(self, output: ClipOutput, batch: PairBatch, positive: bool) -> dict[str, Tensor]:
        """The loss of images against the pairs' texts and the further ones, which belong to their images or to none.

        Args:
            output: of the whole batch.
            batch: the whole batch.
            positive: whether further texts belong to their images; those that are the pair's own caption always do.
        """
        features, same = (output.rows[name].flatten(0, 1) for name in ("further", "same"))  # (B, K, D) -> (B K, D)
        ids = batch.index.repeat_interleave(self.count)
        ids = ids if positive else torch.where(same, ids, NOBODY)
        texts, known = torch.cat([output.features["text"], features]), (batch.index, torch.cat([batch.index, ids]))
        return {"loss": self.loss(output.features["image"], texts, output.scale, output.bias, positives=known)}
