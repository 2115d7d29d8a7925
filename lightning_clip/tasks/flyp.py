"""Fine-tuning on labelled images the way CLIP was pretrained: captions made of class names, images of a class as positives."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.types import Pair, PairBatch
from lightning_clip.data.captions import Template, random_caption
from lightning_clip.losses import caption_ids, losses
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.objectives import ContrastivePairs, objectives

__all__ = ["FlypModule"]

_TEMPLATE = Template(["a photo of a {}."])


@objectives.register("flyp")
class FlypPairs(ContrastivePairs):
    """Contrastive pairs in which images of one class, and equal captions, are positives of each other.

    Args:
        loss: None takes the softmax loss with several positives a row.
    """

    def __init__(self, loss: Any = None) -> None:
        super().__init__({"name": "softmax", "duplicates": True} if loss is None else loss)

    def positives(self, batch: PairBatch) -> Tensor:
        """int64 (B, 2): the class, or the image's place in its source where there is none; and the caption."""
        assert batch.tokens is not None and batch.mask is not None
        group = torch.where(batch.label >= 0, batch.label, -2 - batch.index)
        return torch.stack([group, caption_ids(batch.tokens, batch.mask)], dim=1)

    def to_mapping(self) -> Any:
        return {"name": "flyp", "loss": losses.describe(self.loss)}


class FlypModule(ClipModule):
    """FLYP, "fine-tune like you pretrain" (Goyal et al. 2023, arXiv 2212.00638): the contrastive loss on labelled images.

    Captions are made of class names; choose the sentences with `ClipDataModule(captions={"name": "template", ...})`. Images
    of one class in a batch are positives of each other and of each other's captions, whichever sentence each one shows;
    the paper counts them as negatives, which `objective="softmax"` gives. Pairs without a label go on as in `ClipModule`.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        objective: as of `ClipModule`; None takes "flyp".
        **arguments: of `ClipModule`.
    """

    def __init__(self, *towers: Any, objective: Any = None, **arguments: Any) -> None:
        super().__init__(*towers, objective="flyp" if objective is None else objective, **arguments)

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        """One of the pair's captions, or a sentence with its class name."""
        return random_caption(pair, rng) if pair.captions else _TEMPLATE(pair, rng)
