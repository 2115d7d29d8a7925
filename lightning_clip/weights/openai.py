"""OpenAI's own weights: three sizes among them tell who wrote them, and their shapes tell the architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from lightning_clip.weights.clip import RESNET_STRIDE

__all__ = ["count_blocks", "is_openai", "openai_config", "plain_names", "resnet_depths"]

_SIZES = ("input_resolution", "context_length", "vocab_size")
_HEAD_WIDTH = 64


def is_openai(weights: Mapping[str, Tensor]) -> bool:
    """Whether OpenAI's code wrote these weights: it keeps three sizes among them."""
    return all(any(key.endswith(name) for key in weights) for name in _SIZES)


def plain_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers put in front (`module.`, `_orig_mod.`), and without OpenAI's three sizes.

    Examples:
        >>> import torch
        >>> sorted(plain_names({"module._orig_mod.visual.proj": torch.ones(1), "module.vocab_size": torch.ones(1)}))
        ['visual.proj']
    """
    named = {re.sub(r"(^|(?<=\.))(module|_orig_mod)\.", "", key): value for key, value in weights.items()}
    return {key: value for key, value in named.items() if key not in _SIZES}


def openai_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """open_clip's settings of OpenAI's weights, read off their shapes.

    Args:
        weights: by their names, as `plain_names` gives them.
    """
    vocabulary, width = weights["token_embedding.weight"].shape
    text = {
        "context_length": len(weights["positional_embedding"]),
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // _HEAD_WIDTH,
        "layers": count_blocks(weights, "transformer."),
    }
    vision = _resnet(weights) if all(resnet_depths(weights)) else _vit(weights)
    return {"embed_dim": weights["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def count_blocks(names: Iterable[str], prefix: str) -> int:
    """How many blocks of a Transformer lie below a prefix."""
    return sum(key.startswith(prefix) and key.endswith("ln_1.weight") for key in names)


def resnet_depths(names: Iterable[str]) -> tuple[int, ...]:
    """How many blocks each stage of the ResNet below "visual." has; zeros where there is none."""
    keys = [key.split(".") for key in names if key.startswith("visual.layer")]
    return tuple(len({key[2] for key in keys if key[1] == f"layer{stage}"}) for stage in range(1, 5))


def _resnet(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    grid = math.isqrt(len(weights["visual.attnpool.positional_embedding"]) - 1)
    width = len(weights["visual.layer1.0.conv1.weight"])
    return {"layers": list(resnet_depths(weights)), "width": width, "image_size": grid * RESNET_STRIDE}


def _vit(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, _, patch = weights["visual.conv1.weight"].shape
    grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)
    return {"layers": count_blocks(weights, "visual."), "width": width, "patch_size": patch, "image_size": grid * patch}
