"""Whole models in transformers' words: the family that holds a model of ours exactly, its settings and names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.encoders import ClipTextTransformer
from lightning_clip.encoders.projection import IdentityProjection
from lightning_clip.weights import clip, siglip
from lightning_clip.weights.rules import Rule
from lightning_clip.weights.shapes import has_bias
from lightning_clip.weights.towers import NotHeld, TwoTowers
from lightning_clip.weights.transformers_families import FAMILIES, check_heads, family_of
from lightning_clip.weights.transformers_towers import changed_end, write_image, write_text

__all__ = ["ForeignModel", "write_model"]


@dataclass
class ForeignModel:
    """How transformers holds a model.

    Attributes:
        family: its `model_type`.
        config: its configuration.
        rules: names of its weights.
        end: what the id that ends a text must become, None where it stays.
    """

    family: str
    config: dict[str, Any]
    rules: list[Rule]
    end: int | None = None


def write_model(towers: TwoTowers, tokenizer: Tokenizer, embed_dim: int) -> ForeignModel:
    """A model as the family of transformers has it that holds it exactly.

    Args:
        towers: with their heads.
        tokenizer: its tokenizer.
        embed_dim: width of the shared space.

    Raises:
        NotHeld: no family does.
    """
    if (found := _write_siglip(towers, embed_dim)) is not None:
        return found
    family = family_of(towers)
    check_heads(towers, family)
    image, text = write_image(towers.image, family), write_text(towers.text, family, tokenizer)
    rules = [*clip.temperature(bias=FAMILIES[family].bias), *image.rules, *text.rules]
    if FAMILIES[family].heads:
        rules += [*clip.head("image", "visual_projection"), *clip.head("text", "text_projection")]
    config = {"text_config": text.settings, "vision_config": image.settings, "projection_dim": embed_dim}
    end = changed_end(tokenizer) if isinstance(towers.text, ClipTextTransformer) else None
    return ForeignModel(family, config, rules, end)


def _write_siglip(towers: TwoTowers, embed_dim: int) -> ForeignModel | None:
    """SigLIP from the towers of timm and open_clip; None if they are others."""
    texts = siglip.transformers_text_settings(towers.text)
    vision = None if texts is None else siglip.transformers_vision_settings(towers.image)
    if vision is None or texts is None:
        return None
    if towers.bias is None:
        raise NotHeld("transformers' siglip models have a bias of the logits")
    if not isinstance(towers.image_head, IdentityProjection) or not has_bias(towers.text_head):
        raise NotHeld("its projections are not SigLIP's: none of the image, a linear one with a bias of the text")
    rules = [*clip.temperature(bias=True), *siglip.image_rules(vision["num_hidden_layers"])]
    config = {"text_config": {**texts, "projection_size": embed_dim}, "vision_config": vision}
    return ForeignModel("siglip", config, rules + siglip.text_rules(texts["num_hidden_layers"]))
