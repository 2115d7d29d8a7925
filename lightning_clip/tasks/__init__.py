"""Training on something else than pairs alone: labels, prompts, adapters of features, teachers."""

from lightning_clip.tasks.class_objective import ClassObjective
from lightning_clip.tasks.classifier import ClassifierHead, ClassifierModule
from lightning_clip.tasks.clip_adapter import ClipAdapter, ClipAdapterModule
from lightning_clip.tasks.coop import CoopModule, LearnedPrompts
from lightning_clip.tasks.distillation import Distillation
from lightning_clip.tasks.distillation_module import DistillationModule
from lightning_clip.tasks.flyp import FlypModule, FlypPairs
from lightning_clip.tasks.jest import Jest
from lightning_clip.tasks.supervised import SupervisedModule
from lightning_clip.tasks.tip_adapter import TipAdapterF, TipAdapterModule

__all__ = [
    "ClassObjective",
    "ClassifierHead",
    "ClassifierModule",
    "ClipAdapter",
    "ClipAdapterModule",
    "CoopModule",
    "Distillation",
    "DistillationModule",
    "FlypModule",
    "FlypPairs",
    "Jest",
    "LearnedPrompts",
    "SupervisedModule",
    "TipAdapterF",
    "TipAdapterModule",
]
