"""Domain variants: each a worked subclass of `ClipModule`."""

from lightning_clip.variants.convirt import ConvirtModule

__all__ = ["ConvirtModule"]
