"""CLIP-style contrastive pretraining, adaptation and evaluation as a PyTorch Lightning extension.

Names are imported when first used, so that `lightning-clip --help` answers at once.
"""

from __future__ import annotations

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from lightning_clip.core.registry import Registry

if TYPE_CHECKING:
    from lightning_clip.callbacks import (
        ComputeMeter,
        EvaluationSuite,
        LogExamples,
        Progress,
        Report,
        Retrieval,
        SaveOnSignal,
        WriteFeatures,
        ZeroShotClassification,
    )
    from lightning_clip.core.errors import InputError
    from lightning_clip.core.types import ClipOutput, Pair, PairBatch
    from lightning_clip.data import ClipDataModule
    from lightning_clip.losses import SigmoidContrastiveLoss, SoftmaxContrastiveLoss
    from lightning_clip.model.clip import ClipModel
    from lightning_clip.module.clip_module import ClipModule

__all__ = [
    "ClipDataModule",
    "ClipModel",
    "ClipModule",
    "ClipOutput",
    "ComputeMeter",
    "EvaluationSuite",
    "InputError",
    "LogExamples",
    "Pair",
    "PairBatch",
    "Progress",
    "Report",
    "Retrieval",
    "SaveOnSignal",
    "SigmoidContrastiveLoss",
    "SoftmaxContrastiveLoss",
    "WriteFeatures",
    "ZeroShotClassification",
]
__version__ = "0.1.0"

# Lightning asks torch in a way that torch is about to drop: nothing that a user can do anything about.
warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\)")

_ROOMS = {
    "callbacks": (
        "ComputeMeter",
        "EvaluationSuite",
        "LogExamples",
        "Progress",
        "Report",
        "Retrieval",
        "SaveOnSignal",
        "WriteFeatures",
        "ZeroShotClassification",
    ),
    "data": ("ClipDataModule",),
    "core.errors": ("InputError",),
    "losses": ("SigmoidContrastiveLoss", "SoftmaxContrastiveLoss"),
    "model": ("ClipModel",),
    "module": ("ClipModule",),
    "core.types": ("ClipOutput", "Pair", "PairBatch"),
}
Registry.rooms += ["lightning_clip.tasks", "lightning_clip.variants"]


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(importlib.import_module(f"lightning_clip.{room}"), name)
    raise AttributeError(f"module 'lightning_clip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
