"""Towers by name: registered ones, any timm name, any Hugging Face name or folder as `hf:NAME`."""

from lightning_clip.encoders import names as _names  # noqa: F401  # gives names that nobody registered their meaning
from lightning_clip.encoders.base import ImageEncoder, TextEncoder, Tower, image_encoders, text_encoders, towers
from lightning_clip.encoders.huggingface import HuggingFaceTextEncoder
from lightning_clip.encoders.huggingface_image import HuggingFaceImageEncoder
from lightning_clip.encoders.naflex import NaflexImageEncoder
from lightning_clip.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder
from lightning_clip.encoders.projection import projections
from lightning_clip.encoders.silenced import SilencedHeads
from lightning_clip.encoders.small_conv import SmallConvEncoder
from lightning_clip.encoders.text_transformer import ClipTextTransformer
from lightning_clip.encoders.timm_image import TimmImageEncoder
from lightning_clip.encoders.video import MeanPooledVideo, SequentialVideo, VideoTower

__all__ = [
    "ClipTextTransformer",
    "HuggingFaceImageEncoder",
    "HuggingFaceTextEncoder",
    "ImageEncoder",
    "MeanPooledVideo",
    "NaflexImageEncoder",
    "OpenClipImageEncoder",
    "OpenClipTextEncoder",
    "SequentialVideo",
    "SilencedHeads",
    "SmallConvEncoder",
    "TextEncoder",
    "TimmImageEncoder",
    "Tower",
    "VideoTower",
    "image_encoders",
    "projections",
    "text_encoders",
    "towers",
]
