"""The model in plain PyTorch: towers, heads and a temperature."""

from lightning_clip.model.clip import ClipModel

__all__ = ["ClipModel"]
