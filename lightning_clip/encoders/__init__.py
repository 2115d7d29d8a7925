"""Towers by name: registered ones, any timm name, any Hugging Face name or folder as `hf:NAME`."""

from lightning_clip.encoders import names as _names  # noqa: F401  # gives names that nobody registered their meaning
from lightning_clip.encoders.base import ImageEncoder, TextEncoder, Tower, image_encoders, text_encoders, towers
from lightning_clip.encoders.huggingface import HuggingFaceTextEncoder
from lightning_clip.encoders.huggingface_image import HuggingFaceImageEncoder
from lightning_clip.encoders.open_clip import OpenClipImageEncoder, OpenClipTextEncoder
from lightning_clip.encoders.projection import projections
from lightning_clip.encoders.text_transformer import ClipTextTransformer
from lightning_clip.encoders.timm_image import TimmImageEncoder

__all__ = [
    "ClipTextTransformer",
    "HuggingFaceImageEncoder",
    "HuggingFaceTextEncoder",
    "ImageEncoder",
    "OpenClipImageEncoder",
    "OpenClipTextEncoder",
    "TextEncoder",
    "TimmImageEncoder",
    "Tower",
    "image_encoders",
    "projections",
    "text_encoders",
    "towers",
]
