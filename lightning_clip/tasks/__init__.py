"""Training on something else than pairs alone: labels, prompts, adapters of features, teachers."""

from lightning_clip.tasks.classifier import ClassifierModule
from lightning_clip.tasks.clip_adapter import ClipAdapterModule
from lightning_clip.tasks.coop import CoopModule
from lightning_clip.tasks.distillation import DistillationModule
from lightning_clip.tasks.flyp import FlypModule
from lightning_clip.tasks.supervised import SupervisedModule
from lightning_clip.tasks.tip_adapter import TipAdapterModule

__all__ = [
    "ClassifierModule",
    "ClipAdapterModule",
    "CoopModule",
    "DistillationModule",
    "FlypModule",
    "SupervisedModule",
    "TipAdapterModule",
]
