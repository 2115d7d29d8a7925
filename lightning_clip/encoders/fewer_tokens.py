"""Fewer image tokens for a while: timm's ViT drops some at random (FLIP) or sees smaller images (CLIPA)."""

from __future__ import annotations

from typing import Any

from timm.layers.format import Format
from timm.layers.patch_dropout import PatchDropout
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from lightning_clip.core.errors import InputError

__all__ = ["drop_tokens", "take_sizes"]


def drop_tokens(model: nn.Module, share: float) -> None:
    """Lets a ViT of timm drop so many of its patches in training, drawn anew for each image (Li et al. 2023, arXiv 2212.00794).

    Args:
        model: of timm.
        share: of the patches, in [0, 1).

    Raises:
        InputError: a model that is no plain ViT.
    """
    vit: Any = model
    if not isinstance(model, VisionTransformer):
        raise InputError(f"{type(model).__name__} cannot drop image tokens: take a ViT, or smaller images (image_size)")
    vit.patch_drop = PatchDropout(share, vit.num_prefix_tokens) if share else nn.Identity()


def take_sizes(model: nn.Module) -> None:
    """Lets a model of timm take smaller images too, its positions interpolated; a model without positions does so anyway.

    Images of its own size give what they gave.

    Args:
        model: of timm.

    Raises:
        InputError: a model with positions that are not interpolated.
    """
    vit: Any = model
    if isinstance(model, VisionTransformer):
        vit.dynamic_img_size = True
        vit.patch_embed.strict_img_size, vit.patch_embed.flatten, vit.patch_embed.output_fmt = False, False, Format.NHWC
    elif getattr(model, "patch_embed", None) is not None or hasattr(model, "pos_embed"):
        raise InputError(f"{type(model).__name__} takes images of one size: take a ViT or a convolutional network")
