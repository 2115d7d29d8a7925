"""One tower of a source: how to build it here, its head and its weights; two of them and a temperature make a `Pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_clip.model.recipe import Recipe, TowerSpec
from lightning_clip.weights.source import Pretrained

__all__ = ["Tower", "assemble", "mlp_ratio", "timm_vit", "under"]


@dataclass
class Tower:
    """What a source holds of one modality.

    Attributes:
        spec: mapping from which the registry builds the encoder.
        head: mapping of its projection.
        weights: of both, by our names.
    """

    spec: dict[str, Any]
    head: dict[str, Any]
    weights: dict[str, Tensor] = field(repr=False)


def timm_vit(
    *, image_size: int, patch_size: int, width: int, depth: int, heads: int, hidden: int, quick_gelu: bool
) -> dict[str, Any]:
    """CLIP's Vision Transformer of any size as timm's.

    Args:
        image_size: side in pixels.
        patch_size: side of a patch.
        width: of the tokens.
        depth: number of blocks.
        heads: of each block's attention.
        hidden: width of a block's hidden layer.
        quick_gelu: OpenAI's activation instead of GELU.
    """
    name = "vit_base_patch16_clip_quickgelu_224" if quick_gelu else "vit_base_patch16_clip_224"
    sizes = {
        "patch_size": patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp_ratio(hidden, width),
    }
    return {"name": name, "image_size": image_size, **sizes}


def mlp_ratio(hidden: int, width: int) -> float:
    """The ratio from which timm and open_clip, which round down, find the hidden width again.

    Examples:
        >>> mlp_ratio(3072, 768), int(1664 * mlp_ratio(8192, 1664))
        (4.0, 8192)
    """
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def under(prefix: str, weights: Mapping[str, Tensor], ours: str) -> dict[str, Tensor]:
    """The weights below a prefix, moved below another."""
    return {ours + key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}


def assemble(
    name: str,
    towers: tuple[Tower, Tower],
    scale: Mapping[str, Tensor],
    *,
    embed_dim: int,
    tokenizer: dict[str, Any] | None,
    transform: dict[str, Any],
) -> Pretrained:
    """Image and text tower with their temperature.

    Args:
        name: of the source.
        towers: image and text.
        scale: `logit_scale` and, for models trained with the sigmoid loss, `logit_bias`, of any shape with one element.
        embed_dim: width of the shared space.
        tokenizer: mapping, or None if the user must give one.
        transform: settings that differ from the defaults.
    """
    image, text = towers
    temperature = {key: value.detach().float().reshape(1).cpu() for key, value in scale.items()}
    # At the start only: the learned values come with the weights.
    loss = {"name": "sigmoid"} if "logit_bias" in temperature else {"name": "softmax"}
    recipe = Recipe(
        {"image": TowerSpec(image.spec, image.head, transform), "text": TowerSpec(text.spec, text.head)},
        embed_dim,
        {"name": "pairs", "loss": loss},
        tokenizer,
    )
    weights = {
        key: value.detach().float().cpu() if value.is_floating_point() else value
        for key, value in {**image.weights, **text.weights}.items()
    }
    return Pretrained(name, recipe, {**weights, **temperature})
