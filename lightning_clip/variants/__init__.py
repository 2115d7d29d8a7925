"""Domain variants, each one short file; importing this registers their towers and objectives."""

from lightning_clip.variants.audio import Spectrogram
from lightning_clip.variants.convirt import ConvirtModule
from lightning_clip.variants.geoclip import Coordinates
from lightning_clip.variants.imagebind import DepthMap
from lightning_clip.variants.simclr import SimClr

__all__ = ["ConvirtModule", "Coordinates", "DepthMap", "SimClr", "Spectrogram"]
