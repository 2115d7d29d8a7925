"""The LightningModule."""

from lightning_clip.module.clip_module import ClipModule

__all__ = ["ClipModule"]
