"""The LightningModule."""

from lightning_clip.module.clip_module import ClipModule
from lightning_clip.module.settings import TrainingSettings

__all__ = ["ClipModule", "TrainingSettings"]
