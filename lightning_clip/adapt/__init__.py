"""A trained model and what it is to be adapted to arrive, an adapted model leaves."""

from lightning_clip.adapt.classifier import ClassifierModule
from lightning_clip.adapt.clip_adapter import ClipAdapterModule
from lightning_clip.adapt.coop import CoopModule
from lightning_clip.adapt.finetune import FlypModule
from lightning_clip.adapt.supervised import SupervisedModule
from lightning_clip.adapt.tip import TipAdapterModule

__all__ = ["ClassifierModule", "ClipAdapterModule", "CoopModule", "FlypModule", "SupervisedModule", "TipAdapterModule"]
