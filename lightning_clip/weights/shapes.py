"""What architecture a live image tower of ours is: its sizes in our words, or None where it is built otherwise."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from lightning_clip.encoders import ImageEncoder, TimmImageEncoder, image_encoders
from lightning_clip.weights.clip import RESNET_STRIDE, RESNETS, timm_vit

__all__ = ["clip_resnet", "clip_vit", "has_bias", "same_structure", "unallocated", "vit_sizes"]

_NAMED = {name: {"layers": list(layers), "width": width} for (layers, width), name in RESNETS.items()}


def vit_sizes(encoder: ImageEncoder) -> dict[str, Any] | None:
    """The sizes of any Vision Transformer of timm's, the class of its activation as `act`; None for other towers."""
    if not isinstance(encoder, TimmImageEncoder):
        return None
    model: Any = encoder.model
    try:
        block = model.blocks[0]
        return {
            "image_size": encoder.image_size,
            "patch_size": model.patch_embed.proj.kernel_size[0],
            "width": model.embed_dim,
            "depth": len(model.blocks),
            "heads": block.attn.num_heads,
            "hidden": block.mlp.fc1.out_features,
            "act": type(block.mlp.act).__name__,
        }
    except (AttributeError, IndexError, TypeError):  # it is made of other parts
        return None


def clip_vit(encoder: ImageEncoder) -> dict[str, Any] | None:
    """The sizes of a timm Vision Transformer built like CLIP's (see `timm_vit`); None for any other tower.

    Examples:
        >>> tower = image_encoders.build("vit_base_patch32_clip_224")
        >>> {key: clip_vit(tower)[key] for key in ("width", "depth", "patch_size", "quick_gelu")}
        {'width': 768, 'depth': 12, 'patch_size': 32, 'quick_gelu': False}
        >>> clip_vit(image_encoders.build("vit_tiny_patch16_224")) is None
        True
    """
    sizes = vit_sizes(encoder)
    if sizes is None:
        return None
    sizes["quick_gelu"] = "QuickGELU" in sizes.pop("act")
    twin = unallocated(timm_vit(**sizes))
    return sizes if twin is not None and same_structure(encoder.model, twin.model) else None


def clip_resnet(encoder: ImageEncoder) -> dict[str, Any] | None:
    """open_clip's settings of one of CLIP's ResNets as timm builds them; None for any other tower."""
    if not isinstance(encoder, TimmImageEncoder) or encoder.architecture not in _NAMED or encoder.options:
        return None
    model: Any = encoder.model
    size = RESNET_STRIDE * int((len(model.head.pos_embed) - 1) ** 0.5)
    return {**_NAMED[encoder.architecture], "image_size": size}


def has_bias(head: nn.Module) -> bool:
    """Whether a projection is linear with a bias."""
    return isinstance(head, nn.Linear) and head.bias is not None


def same_structure(one: Any, other: Any) -> bool:
    """Whether two of timm's Vision Transformers compute the same with the same weights."""
    switches = ("global_pool", "no_embed_class", "num_prefix_tokens", "has_class_token", "dynamic_img_pad")
    same = all(getattr(one, key, None) == getattr(other, key, None) for key in switches)
    return same and _structure(one) == _structure(other)


def unallocated(spec: dict[str, Any]) -> Any:
    """The image tower of a mapping without memory for its weights; None where its sizes make no tower."""
    try:
        with torch.device("meta"):
            return image_encoders.build(spec)
    except (RuntimeError, AssertionError, ZeroDivisionError, NotImplementedError):  # some compute while they are built
        return None


def _structure(model: nn.Module) -> str:
    """All layers with their settings, apart from what acts in training only and from a resizable patch grid."""
    text = re.sub(r"(DropPath|Dropout)\([^)]*\)|PatchDropout\([^)]*\)", "Identity()", repr(model))
    return re.sub(r"\(drop_prob=[^)]*\)", "", text)
