"""A trained model and what it is to be adapted to arrive, an adapted model leaves.

`ClipModule` imports what concerns its towers (locks, rates by depth, stages) from here; what subclasses it is imported when
it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_clip.adapt.adaptation import Adaptation
from lightning_clip.adapt.base import known_base
from lightning_clip.adapt.cache import FeatureCache
from lightning_clip.adapt.lora import merged
from lightning_clip.adapt.partial import complete, options_with_base
from lightning_clip.adapt.settings import AdaptSettings, Stage
from lightning_clip.adapt.towers import ImageAdapt, Lock, LoraSettings, TextAdapt, TowerAdapt
from lightning_clip.adapt.vocabulary import grow_tower, grown_tokenizer

if TYPE_CHECKING:
    from lightning_clip.adapt.classifier import ClassifierModule
    from lightning_clip.adapt.clip_adapter import ClipAdapterModule
    from lightning_clip.adapt.coop import CoopModule
    from lightning_clip.adapt.distillation import DistillationModule
    from lightning_clip.adapt.finetune import FlypModule
    from lightning_clip.adapt.supervised import SupervisedModule
    from lightning_clip.adapt.tip import TipAdapterModule

__all__ = [
    "AdaptSettings",
    "Adaptation",
    "ClassifierModule",
    "ClipAdapterModule",
    "CoopModule",
    "DistillationModule",
    "FeatureCache",
    "FlypModule",
    "ImageAdapt",
    "Lock",
    "LoraSettings",
    "Stage",
    "SupervisedModule",
    "TextAdapt",
    "TipAdapterModule",
    "TowerAdapt",
    "complete",
    "grow_tower",
    "grown_tokenizer",
    "known_base",
    "merged",
    "options_with_base",
]

_MODULES = {
    "ClassifierModule": "classifier",
    "ClipAdapterModule": "clip_adapter",
    "CoopModule": "coop",
    "DistillationModule": "distillation",
    "FlypModule": "finetune",
    "SupervisedModule": "supervised",
    "TipAdapterModule": "tip",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"lightning_clip.adapt.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'lightning_clip.adapt' has no attribute {name!r}")
