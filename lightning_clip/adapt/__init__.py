"""A trained model and what it is to be adapted to arrive, an adapted model leaves."""

from lightning_clip.adapt.classifier import ClassifierModule
from lightning_clip.adapt.finetune import FlypModule
from lightning_clip.adapt.supervised import SupervisedModule

__all__ = ["ClassifierModule", "FlypModule", "SupervisedModule"]
