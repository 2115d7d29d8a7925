"""A two-tower model of ours in transformers' words: a module arrives, a family with settings and names leaves, or a reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from lightning_clip.data.tokenizers import JsonTokenizer
from lightning_clip.encoders import ClipTextTransformer, HuggingFaceImageEncoder, HuggingFaceTextEncoder
from lightning_clip.encoders.huggingface_towers import describe
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.weights import layouts, siglip
from lightning_clip.weights.from_transformers import FAMILIES
from lightning_clip.weights.rules import Rule, same_names
from lightning_clip.weights.shapes import clip_vit, linear_bias
from lightning_clip.weights.tokenizer_files import last_id
from lightning_clip.weights.tokens import end_token

__all__ = ["LEGACY_END", "Plan", "plan"]

LEGACY_END = 2
_DUAL = "vision-text-dual-encoder"
# Families whose image tower is CLIP's.
_CLIP_IMAGES = ("clip", "metaclip_2", "chinese_clip", "altclip")


@dataclass
class Plan:
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


def plan(module: ClipModule) -> Plan | str:
    """The family of transformers that holds a module exactly, or why none does."""
    model = module.model
    image, text = model.image_encoder, model.text_encoder
    if (found := _siglip(module)) is not None:
        return found
    vit = clip_vit(image)
    family = _family(image, text, vit is not None)
    if family is None:
        return f"transformers has no model of a {_name(image)} and a {_name(text)}"
    sigmoid = model.logit_bias is not None
    if sigmoid != (family == "siglip"):
        return f"transformers' {family} models have {'no bias' if sigmoid else 'a bias'} of the logits"
    if problem := _heads(model, family):
        return problem
    rules = layouts.temperature(bias=sigmoid)
    if vit is not None:
        vision = _vision(vit) if family != _DUAL else {"model_type": "clip_vision_model", **_vision(vit)}
        rules += layouts.transformers_vit(vit["depth"])
    else:
        assert isinstance(image, HuggingFaceImageEncoder)
        vision = _part(image.model)
        rules += same_names("image_encoder.model.", "vision_model.", image.model)
    changed = None
    if isinstance(text, ClipTextTransformer):
        end = end_token(module.tokenizer)
        if end is None:
            return "its tokenizer does not end each text with one id, by which transformers would find the end"
        if end == LEGACY_END and isinstance(module.tokenizer, JsonTokenizer):
            changed = last_id(module.tokenizer)
        texts = _texts(text, end if changed is None else changed)
        rules += layouts.transformers_text(text.layers)
    else:
        assert isinstance(text, HuggingFaceTextEncoder)
        texts = _part(text.model)
        rules += same_names("text_encoder.model.", "text_model.", text.model)
        if family == "chinese_clip":  # it has no pooler, and needs none for the first token
            texts.pop("model_type", None)
            rules = [rule for rule in rules if not rule.ours.startswith("text_encoder.model.pooler.")]
    if family != "siglip":
        rules += [*layouts.head("image", "visual_projection"), *layouts.head("text", "text_projection")]
    config = {"text_config": texts, "vision_config": vision, "projection_dim": module.embed_dim}
    return Plan(family, config, rules, changed)


def _siglip(module: ClipModule) -> Plan | str | None:
    """SigLIP from the towers of timm and open_clip; None if they are others."""
    model = module.model
    vision = siglip.transformers_vision_settings(model.image_encoder)
    texts = siglip.transformers_text_settings(model.text_encoder)
    if vision is None or texts is None:
        return None
    if model.logit_bias is None:
        return "transformers' siglip models have a bias of the logits"
    if not isinstance(model.image_projection, IdentityProjection) or not linear_bias(model, "text"):
        return "its projections are not SigLIP's: none of the image, a linear one with a bias of the text"
    rules = layouts.temperature(bias=True) + siglip.image_rules(vision["num_hidden_layers"])
    config = {"text_config": {**texts, "projection_size": module.embed_dim}, "vision_config": vision}
    return Plan("siglip", config, rules + siglip.text_rules(texts["num_hidden_layers"]))


def _family(image: nn.Module, text: nn.Module, is_vit: bool) -> str | None:
    if not is_vit and not (isinstance(image, HuggingFaceImageEncoder) and image.pooling == "pooler"):
        return None
    images = getattr(getattr(image, "model", None), "family", None)
    if isinstance(text, ClipTextTransformer):
        return "clip" if is_vit or images == "clip" else None
    if not isinstance(text, HuggingFaceTextEncoder):
        return None
    family = getattr(text.model, "family", None)
    if family is None and is_vit and text.pooling == "cls" and text.model.config.model_type == "bert":
        return "chinese_clip"  # whose text tower is a BERT
    if family is None:
        return _DUAL if images is None and text.pooling == "pooler" else None
    fits = images == family or (is_vit and family in _CLIP_IMAGES)
    return family if fits and FAMILIES.get(family) == text.pooling else None


def _heads(model: Any, family: str) -> str | None:
    wanted = IdentityProjection if family == "siglip" else LinearProjection
    for tower in ("image", "text"):
        head = getattr(model, f"{tower}_projection")
        if not isinstance(head, wanted) or getattr(head, "bias", None) is not None:
            with_bias = " with a bias" if getattr(head, "bias", None) is not None else ""
            return f"its {tower} projection is a {type(head).__name__}{with_bias}, where {family} has a {wanted.__name__}"
    return None


def _vision(sizes: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": sizes["width"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["heads"],
        "intermediate_size": sizes["hidden"],
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_act": "quick_gelu" if sizes["quick_gelu"] else "gelu",
        "layer_norm_eps": 1e-5,
    }


def _texts(text: ClipTextTransformer, end: int) -> dict[str, Any]:
    return {
        "hidden_size": text.width,
        "num_hidden_layers": text.layers,
        "num_attention_heads": text.heads,
        "intermediate_size": 4 * text.width,
        "vocab_size": text.vocab_size,
        "max_position_embeddings": text.context_length,
        "hidden_act": "quick_gelu" if text.quick_gelu else "gelu",
        "eos_token_id": end,
        "bos_token_id": end - 1,
        "pad_token_id": end,
        "layer_norm_eps": 1e-5,
    }


def _part(model: Any) -> dict[str, Any]:
    settings = describe(model)
    inner: dict[str, Any] = next((settings[key] for key in ("text_config", "vision_config") if key in settings), settings)
    return {key: value for key, value in inner.items() if key != "add_pooling_layer"}


def _name(tower: nn.Module) -> str:
    architecture = getattr(tower, "architecture", None) or getattr(getattr(tower, "model", None), "family", None)
    return f"{type(tower).__name__}{f' ({architecture})' if architecture else ''}"
