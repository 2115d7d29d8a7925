"""Adapting a model: locks, rates by depth, stages, adapters. `ClipModule` imports this room, so it imports nothing of that."""

from lightning_clip.adapt.adaptation import Adaptation
from lightning_clip.adapt.base import known_base
from lightning_clip.adapt.cache import FeatureCache
from lightning_clip.adapt.lora import merged
from lightning_clip.adapt.partial import complete, options_with_base
from lightning_clip.adapt.settings import AdaptSettings, Stage
from lightning_clip.adapt.towers import ImageAdapt, Lock, LoraSettings, TextAdapt, TowerAdapt
from lightning_clip.adapt.vocabulary import grown_tokenizer

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
    "complete",
    "grown_tokenizer",
    "known_base",
    "merged",
    "options_with_base",
]
