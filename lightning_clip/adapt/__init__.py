"""Adapting a model: locked towers, rates by depth, stages. `ClipModule` imports this room, so it imports nothing of that."""

from lightning_clip.adapt.adaptation import Adaptation
from lightning_clip.adapt.cache import FeatureCache
from lightning_clip.adapt.settings import AdaptSettings, Stage
from lightning_clip.adapt.towers import ImageAdapt, Lock, LoraSettings, TextAdapt, TowerAdapt

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
]
