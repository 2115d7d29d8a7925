"""Published weights in: one adapter a family."""

from lightning_clip.weights.opening import open_pretrained
from lightning_clip.weights.source import Pretrained, Source

__all__ = ["Pretrained", "Source", "open_pretrained"]
