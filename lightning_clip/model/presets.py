"""The paper's models by name (Radford et al. 2021, tables 19 and 20), as arguments of `ClipModule`."""

from __future__ import annotations

from typing import Any

from lightning_clip.core.errors import InputError, nearest

__all__ = ["PRESETS", "preset"]


def _resnet_text(width: int, heads: int) -> dict[str, Any]:
    return {"name": "clip_text", "width": width, "layers": 12, "heads": heads}


def _arguments(image_encoder: str, text_encoder: str | dict[str, Any], embed_dim: int) -> dict[str, Any]:
    return {"image_encoder": image_encoder, "text_encoder": text_encoder, "embed_dim": embed_dim}


PRESETS: dict[str, dict[str, Any]] = {
    "RN50": _arguments("resnet50_clip", "clip_text_base", 1024),
    "RN101": _arguments("resnet101_clip", "clip_text_base", 512),
    "RN50x4": _arguments("resnet50x4_clip", _resnet_text(640, 10), 640),
    "RN50x16": _arguments("resnet50x16_clip", _resnet_text(768, 12), 768),
    "RN50x64": _arguments("resnet50x64_clip", _resnet_text(1024, 16), 1024),
    "ViT-B/32": _arguments("vit_base_patch32_clip_224", "clip_text_base", 512),
    "ViT-B/16": _arguments("vit_base_patch16_clip_224", "clip_text_base", 512),
    "ViT-L/14": _arguments("vit_large_patch14_clip_224", "clip_text_large", 768),
    "ViT-L/14@336": _arguments("vit_large_patch14_clip_336", "clip_text_large", 768),
}


def preset(name: str) -> dict[str, Any]:
    """Arguments for `ClipModule` or `ClipModel` that build one of the paper's models with random weights.

    Raises:
        InputError: no such preset.

    Examples:
        >>> preset("ViT-B/32")["embed_dim"]
        512
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: {nearest(name, PRESETS)}")
    return dict(PRESETS[name])
