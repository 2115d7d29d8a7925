"""ConVIRT (Zhang et al. 2020, arXiv 2010.00747): CLIP's forerunner on radiographs and their reports, as a subclass."""

from __future__ import annotations

import math
import random
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2

from lightning_clip.core.types import Pair
from lightning_clip.data.captions import Sentence
from lightning_clip.losses import ContrastiveLoss, SoftmaxContrastiveLoss
from lightning_clip.module.clip_module import ClipModule

__all__ = ["ConvirtModule"]


class ConvirtModule(ClipModule):
    """ConVIRT's particulars: MLP heads, a loss that favours image-to-text, a fixed temperature, one sentence per visit.

    Args:
        image_encoder: the paper's is a ResNet-50, which None takes.
        text_encoder: the paper's is BERT; "hf:emilyalsentzer/Bio_ClinicalBERT" is theirs, which None takes.
        embed_dim: width of the shared space and of the heads' hidden layer, 512 in the paper.
        loss: None takes the paper's.
        projection: head of both towers, "mlp" in the paper.
        optimizer: None takes the paper's.
        **arguments: any other argument of `ClipModule`.

    Examples:
        >>> ConvirtModule("resnet10t", {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}).loss.image_weight
        0.75
    """

    def __init__(
        self,
        image_encoder: str | dict[str, Any] | None = None,
        text_encoder: str | dict[str, Any] | None = None,
        *,
        embed_dim: int | None = None,
        loss: dict[str, Any] | ContrastiveLoss | None = None,
        projection: str | dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        if arguments.get("pretrained") is None:  # which would bring them
            image_encoder, text_encoder = image_encoder or "resnet50", text_encoder or "hf:emilyalsentzer/Bio_ClinicalBERT"
            embed_dim, projection = embed_dim or 512, projection or "mlp"
        # Temperature 0.1, not learned (section 4.1).
        loss = loss or SoftmaxContrastiveLoss(image_weight=0.75, initial_scale=10.0, learn_scale=False)
        optimizer = optimizer or {"lr": 1e-4, "weight_decay": 1e-6, "betas": (0.9, 0.999), "eps": 1e-8}
        super().__init__(
            image_encoder, text_encoder, embed_dim=embed_dim, loss=loss, projection=projection, optimizer=optimizer, **arguments
        )

    def complete_model(self) -> None:
        """What is fixed is fixed at the loss's own temperature, also where `pretrained` brings another."""
        if not self.loss.learn_scale:
            nn.init.constant_(self.model.logit_scale, math.log(self.loss.initial_scale))

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        """One sentence of the report, each as likely as the next (section 3.3)."""
        return Sentence()(pair, rng)

    def image_transform(self, train: bool) -> nn.Module:
        """The paper's five augmentations (section 4.1) in training, resize and centre crop otherwise."""
        if not train:
            return super().image_transform(train=False)
        steps: list[nn.Module] = [
            v2.RandomResizedCrop(self.image_size, scale=(0.6, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(degrees=20, translate=(0.1, 0.1), scale=(0.95, 1.05)),
            v2.ColorJitter(brightness=(0.6, 1.4), contrast=(0.6, 1.4)),
            v2.RandomApply([v2.GaussianBlur(kernel_size=9, sigma=(0.1, 3.0))]),
        ]
        return nn.Sequential(*steps)
