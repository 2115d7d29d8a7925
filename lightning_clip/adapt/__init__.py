"""What of a model is trained, at what rates, and what is added to it: locks, stages, LoRA, new words."""

from lightning_clip.adapt.adaptation import Adaptation
from lightning_clip.adapt.base import known_base
from lightning_clip.adapt.cache import FeatureCache
from lightning_clip.adapt.settings import AdaptSettings, Stage
from lightning_clip.adapt.towers import ImageAdapt, Lock, LoraSettings, TextAdapt, TowerAdapt
from lightning_clip.adapt.vocabulary import grow_tower, grown_tokenizer

__all__ = [
    "AdaptSettings",
    "Adaptation",
    "FeatureCache",
    "ImageAdapt",
    "Lock",
    "LoraSettings",
    "Stage",
    "TextAdapt",
    "TowerAdapt",
    "grow_tower",
    "grown_tokenizer",
    "known_base",
]
