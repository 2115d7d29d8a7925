"""Names of towers that nobody registered: any timm name, any Hugging Face name or folder as `hf:NAME`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm

from lightning_clip.core.settings import expanded
from lightning_clip.encoders.base import ImageEncoder, TextEncoder, image_encoders, text_encoders, towers
from lightning_clip.encoders.huggingface import HuggingFaceTextEncoder
from lightning_clip.encoders.huggingface_image import HuggingFaceImageEncoder
from lightning_clip.encoders.timm_image import TimmImageEncoder

__all__: list[str] = []

_HUB = "hf:"


def _image_encoder(name: str) -> Callable[..., ImageEncoder]:
    if name.startswith(_HUB):
        return partial(HuggingFaceImageEncoder, expanded(name.removeprefix(_HUB)))
    return partial(TimmImageEncoder, name)


def _text_encoder(name: str) -> Callable[..., TextEncoder] | None:
    return partial(HuggingFaceTextEncoder, expanded(name.removeprefix(_HUB))) if name.startswith(_HUB) else None


def _tower(name: str) -> Callable[..., Any] | None:
    """A tower of a further column may be an image encoder (depth, a spectrogram, a second view) or a text encoder by its name;
    a name that both have is the image encoder's.
    """
    if name in image_encoders.names() or name.startswith(_HUB) or timm.is_model(name):
        return image_encoders.factory(name)
    return text_encoders.factory(name) if name in text_encoders.names() else None


image_encoders.fallback = _image_encoder
text_encoders.fallback = _text_encoder
towers.fallback = _tower
