"""What architecture a tower of ours is: a live encoder arrives, its sizes in the words of other libraries, or None, leave."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from lightning_clip.encoders import ImageEncoder, TimmImageEncoder, image_encoders
from lightning_clip.model.clip import ClipModel
from lightning_clip.weights.open_clip_towers import RESNETS
from lightning_clip.weights.towers import timm_vit

__all__ = ["clip_resnet", "clip_vit", "linear_bias", "same_structure"]

_LAYERS = {name: layers for (layers, _), name in RESNETS.items()}
_WIDTHS = {name: width for (_, width), name in RESNETS.items()}


def clip_vit(encoder: ImageEncoder) -> dict[str, Any] | None:
    """The sizes of a timm Vision Transformer built like CLIP's (see `timm_vit`); None for any other tower.

    Examples:
        >>> tower = image_encoders.build("vit_base_patch32_clip_224")
        >>> {key: clip_vit(tower)[key] for key in ("width", "depth", "patch_size", "quick_gelu")}
        {'width': 768, 'depth': 12, 'patch_size': 32, 'quick_gelu': False}
        >>> clip_vit(image_encoders.build("vit_tiny_patch16_224")) is None
        True
    """
    model: Any = getattr(encoder, "model", None)
    if not isinstance(encoder, TimmImageEncoder) or not hasattr(model, "patch_embed") or not len(getattr(model, "blocks", ())):
        return None
    block = model.blocks[0]
    try:
        sizes = {
            "image_size": encoder.image_size,
            "patch_size": model.patch_embed.proj.kernel_size[0],
            "width": model.embed_dim,
            "depth": len(model.blocks),
            "heads": block.attn.num_heads,
            "hidden": block.mlp.fc1.out_features,
            "quick_gelu": "QuickGELU" in type(block.mlp.act).__name__,
        }
    except AttributeError:  # it is made of other parts
        return None
    try:
        with torch.device("meta"):
            twin: Any = image_encoders.build(timm_vit(**sizes))
    except (RuntimeError, AssertionError):
        return None
    return sizes if same_structure(model, twin.model) else None


def clip_resnet(encoder: ImageEncoder) -> dict[str, Any] | None:
    """open_clip's settings of one of CLIP's ResNets as timm builds them; None for any other tower."""
    name = getattr(encoder, "architecture", None)
    if not isinstance(encoder, TimmImageEncoder) or name not in _LAYERS or encoder.options:
        return None
    model: Any = encoder.model
    size = 32 * int((len(model.head.pos_embed) - 1) ** 0.5)
    return {"layers": list(_LAYERS[name]), "width": _WIDTHS[name], "image_size": size}


def linear_bias(model: ClipModel, tower: str) -> bool:
    """Whether a tower's linear projection has a bias."""
    return getattr(getattr(model, f"{tower}_projection"), "bias", None) is not None


def same_structure(one: nn.Module, other: nn.Module) -> bool:
    """Whether two of timm's Vision Transformers compute the same with the same weights."""
    switches = ("global_pool", "no_embed_class", "num_prefix_tokens", "has_class_token", "dynamic_img_pad")
    same = all(getattr(one, key, None) == getattr(other, key, None) for key in switches)
    return same and _structure(one) == _structure(other)


def _structure(model: nn.Module) -> str:
    """All layers with their settings, apart from what acts in training only and from a resizable patch grid."""
    text = re.sub(r"(DropPath|Dropout)\([^)]*\)|PatchDropout\([^)]*\)", "Identity()", repr(model))
    return re.sub(r"\(drop_prob=[^)]*\)", "", text)
