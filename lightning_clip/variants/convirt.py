"""ConVIRT (Zhang et al. 2020, arXiv 2010.00747): CLIP's forerunner on radiographs and their reports, as a subclass."""

import math
import random
from typing import Any

from torch import nn
from torchvision.transforms import InterpolationMode, v2

from lightning_clip.core.types import Pair
from lightning_clip.data.captions import Sentence
from lightning_clip.module import ClipModule, TrainingSettings

__all__ = ["ConvirtModule"]

TOWERS = ({"name": "resnet50", "pretrained": True}, "hf:emilyalsentzer/Bio_ClinicalBERT")
LOSS = {"name": "softmax", "image_weight": 0.75, "initial_scale": 10.0, "learn_scale": False}  # temperature 0.1
OPTIMIZER = {"lr": 1e-4, "weight_decay": 1e-6, "betas": [0.9, 0.999], "eps": 1e-8}
FROZEN = {"text": {"lock": True, "unlock_last": 6}}  # BERT's embeddings and the first 6 of its 12 layers (section 4.1)


class ConvirtModule(ClipModule):
    """MLP heads, a loss that favours image-to-text, a fixed temperature, one sentence per visit; all but these is `ClipModule`.

    Args:
        image_encoder: None takes the paper's, a ResNet-50 with ImageNet's weights.
        text_encoder: None takes theirs, ClinicalBERT; of a BERT with weights ("hf:...") the first 6 of 12 layers are frozen.
        **arguments: any other argument of `ClipModule`; what it does not say is the paper's.
    """

    def __init__(self, image_encoder: Any = None, text_encoder: Any = None, **arguments: Any) -> None:
        training, objective = arguments.pop("training", None) or {}, arguments.pop("objective", None) or LOSS
        defaults: dict[str, Any] = {"optimizer": OPTIMIZER}
        if arguments.get("pretrained") is None:  # which would bring towers and heads
            image_encoder, text_encoder = image_encoder or TOWERS[0], text_encoder or TOWERS[1]
            defaults |= {"adapt": FROZEN} if str(text_encoder).startswith("hf:") else {}
            given = arguments.get("towers") or {}
            arguments["towers"] = given | {name: {"projection": "mlp", **given.get(name, {})} for name in ("image", "text")}
        if not isinstance(training, TrainingSettings):
            training = defaults | {key: value for key, value in training.items() if value is not None}
        super().__init__(image_encoder, text_encoder, training=training, objective=objective, **arguments)

    def complete_model(self) -> None:
        if not (start := self.objective.initial_temperature()).learned:  # also where `pretrained` brings another
            nn.init.constant_(self.model.logit_scale, math.log(start.scale))

    @staticmethod
    def choose_caption(pair: Pair, rng: random.Random) -> str:
        return Sentence()(pair, rng)  # each as likely as the next (section 3.3)

    def image_transform(self, train: bool) -> nn.Module:
        if not train:
            return super().image_transform(train=False)
        crop = v2.RandomResizedCrop(self.image_size, (0.6, 1.0), interpolation=InterpolationMode.BICUBIC, antialias=True)
        turn = v2.RandomAffine(degrees=20, translate=(0.1, 0.1), scale=(0.95, 1.05))
        light, blur = v2.ColorJitter((0.6, 1.4), (0.6, 1.4)), v2.RandomApply([v2.GaussianBlur(9, (0.1, 3.0))])
        return nn.Sequential(crop, v2.RandomHorizontalFlip(0.5), turn, light, blur)
