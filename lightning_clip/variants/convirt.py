"""ConVIRT (Zhang et al. 2020, arXiv 2010.00747): CLIP's forerunner on radiographs and their reports, as a subclass."""

from __future__ import annotations

import math
import random
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2

from lightning_clip.core.types import Pair
from lightning_clip.data.captions import Sentence
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.module.settings import TrainingSettings

__all__ = ["ConvirtModule"]


# Temperature 0.1, not learned; image to text counts three times as much as text to image (section 4.1).
_LOSS = {"name": "softmax", "image_weight": 0.75, "initial_scale": 10.0, "learn_scale": False}
_OPTIMIZER = {"lr": 1e-4, "weight_decay": 1e-6, "betas": [0.9, 0.999], "eps": 1e-8}


class ConvirtModule(ClipModule):
    """ConVIRT's particulars: MLP heads, a loss that favours image-to-text, a fixed temperature, one sentence per visit.

    Args:
        image_encoder: the paper's is a ResNet-50 with ImageNet's weights, which None takes.
        text_encoder: the paper's is BERT; "hf:emilyalsentzer/Bio_ClinicalBERT" is theirs, which None takes.
        **arguments: any other argument of `ClipModule`; what it does not say is the paper's.

    Examples:
        >>> ConvirtModule("resnet10t", {"name": "clip_text", "width": 32, "layers": 1, "heads": 2}).objective.loss.image_weight
        0.75
    """

    def __init__(self, image_encoder: Any = None, text_encoder: Any = None, **arguments: Any) -> None:
        if arguments.get("pretrained") is None:  # which would bring them
            image_encoder, text_encoder = image_encoder or "resnet50", text_encoder or "hf:emilyalsentzer/Bio_ClinicalBERT"
            given = arguments.get("towers") or {}
            arguments["towers"] = {
                **given,
                **{column: {"projection": "mlp", **given.get(column, {})} for column in ("image", "text")},
            }
        training = arguments.get("training") or {}
        if not isinstance(training, TrainingSettings) and training.get("optimizer") is None:
            arguments["training"] = {**training, "optimizer": _OPTIMIZER}
        arguments["objective"] = arguments.get("objective") or {"name": "pairs", "loss": _LOSS}
        super().__init__(image_encoder, text_encoder, **arguments)

    def complete_model(self) -> None:
        """A fixed temperature is fixed at the objective's own, also where `pretrained` brings another."""
        temperature = self.objective.initial_temperature()
        if not temperature.learned:
            nn.init.constant_(self.model.logit_scale, math.log(temperature.scale))

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
