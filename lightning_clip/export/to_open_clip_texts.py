"""Text towers of ours in open_clip's words: a module arrives, settings and rules for the names leave, or a reason why not."""

from __future__ import annotations

from typing import Any

from torch import nn

from lightning_clip.encoders import ClipTextTransformer, HuggingFaceTextEncoder, OpenClipTextEncoder
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection, MlpProjection
from lightning_clip.export.to_open_clip_towers import Part
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.weights import layouts, siglip
from lightning_clip.weights.rules import Rule, below, same_names
from lightning_clip.weights.shapes import linear_bias
from lightning_clip.weights.tokens import end_token, is_clip

__all__ = ["text_config", "text_part"]

_POOLERS = {"mean": "mean_pooler", "max": "max_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}
_BERTS = "chinese_clip"


def text_part(module: ClipModule, folder: str) -> Part | str:
    """The text tower, or why open_clip has none like it; `folder` will hold the configuration of a Hugging Face model."""
    model, encoder = module.model, module.model.text_encoder
    head, linear = model.text_projection, isinstance(model.text_projection, LinearProjection)
    own: dict[str, Any] = {} if is_clip(module.tokenizer) else {"hf_tokenizer_name": "."}
    if clean := module.tokenizer.to_mapping().get("clean"):
        own["tokenizer_kwargs"] = {"clean": clean}
    bias = linear_bias(model, "text")
    if not isinstance(head, LinearProjection | IdentityProjection | MlpProjection):
        return f"its text projection is a {type(head).__name__}"
    if isinstance(encoder, ClipTextTransformer):
        if not linear or bias:
            return "its text projection is no plain matrix"
        end = end_token(module.tokenizer)
        if end is None:
            return "its tokenizer does not end each text with one id, by which open_clip would find the end"
        last = {} if is_clip(module.tokenizer) else {"pool_type": "eos", "eos_id": end}
        sizes = {key: getattr(encoder, key) for key in ("context_length", "vocab_size", "width", "heads", "layers")}
        rules = [*layouts.open_clip_text(encoder.layers), *layouts.head("text", "text_projection", transposed=True)]
        return Part({**sizes, **last, **own}, rules, encoder.quick_gelu)
    if isinstance(encoder, OpenClipTextEncoder):
        rules = same_names("text_encoder.model.", "text.", encoder.model)
        rules += layouts.head("text", "text.text_projection", bias=bias, transposed=not bias) if linear else []
        settings = {**encoder.config, "proj_bias": bias, "output_tokens": False, **({} if linear else {"proj_type": "none"})}
        return Part({**settings, **own}, rules, encoder.quick_gelu, custom=True)
    if isinstance(encoder, HuggingFaceTextEncoder) and siglip.is_transformers_siglip(encoder):
        return _siglip_text(encoder, head, own)
    if isinstance(encoder, HuggingFaceTextEncoder):
        return _hugging_face(module, encoder, own, folder)
    return f"its text tower is a {type(encoder).__name__}"


def _siglip_text(encoder: HuggingFaceTextEncoder, head: nn.Module, own: dict[str, Any]) -> Part | str:
    settings = siglip.open_clip_text_settings(encoder)
    if settings is None:
        return f"open_clip has no text tower with the activation {encoder.model.config.hidden_act!r}"
    if not isinstance(head, IdentityProjection):
        return f"its text projection is a {type(head).__name__}"
    before = siglip.text_rules(len(encoder.blocks()), "text_encoder.model.")
    rules = [*below(before, "text_encoder.model.", "text."), *layouts.head("text", "text.text_projection", bias=True)]
    return Part({**settings, **own}, rules, custom=True, before=before)


def _hugging_face(module: ClipModule, encoder: HuggingFaceTextEncoder, own: dict[str, Any], folder: str) -> Part | str:
    from open_clip.hf_configs import arch_dict

    head, config = module.model.text_projection, text_config(encoder)
    family = getattr(encoder.model, "family", None)
    if encoder.pooling not in _POOLERS or config.model_type not in arch_dict or family not in (None, _BERTS):
        return f"open_clip has no {config.model_type!r} text tower with pooling {encoder.pooling!r}"
    if module.tokenizer.pad_id != config.pad_token_id:
        return f"open_clip takes id {config.pad_token_id} for padding, and the tokenizer pads with {module.tokenizer.pad_id}"
    middle = (encoder.output_dim + module.embed_dim) // 2
    rules = same_names("text_encoder.model.", "text.transformer.", encoder.model)
    if encoder.pooling != "pooler":
        rules = [rule for rule in rules if not rule.ours.startswith("text_encoder.model.pooler.")]
    if isinstance(head, LinearProjection) and head.bias is None:
        projection, rules = "linear", [*rules, *layouts.head("text", "text.proj")]
    elif isinstance(head, IdentityProjection):
        projection = None
    elif (
        isinstance(head, MlpProjection)
        and isinstance(head[1], nn.GELU)
        and head[0].bias is None
        and head[0].out_features == middle
    ):
        projection, rules = "mlp", rules + [Rule(f"text_projection.{n}.weight", (f"text.proj.{n}.weight",)) for n in (0, 2)]
    else:
        return "its text projection is none of open_clip's for Hugging Face towers"
    settings = {"hf_model_name": folder, "hf_model_pretrained": False, "hf_proj_type": projection}
    settings |= {"hf_pooler_type": _POOLERS[encoder.pooling], "context_length": module.tokenizer.context_length}
    return Part({**settings, **own}, rules, custom=True)


def text_config(encoder: HuggingFaceTextEncoder) -> Any:
    """The configuration from which open_clip builds a Hugging Face tower; Chinese-CLIP's is BERT under another name."""
    config: Any = encoder.model.config
    if (whole := getattr(encoder.model, "whole_config", None)) is not None:  # from which open_clip takes the encoder
        whole.vocab_size = config.vocab_size
        return whole
    if getattr(encoder.model, "family", None) != _BERTS:
        return config
    from transformers import BertConfig

    return BertConfig(
        **{key: value for key, value in config.to_dict().items() if key in BertConfig().to_dict() and key != "model_type"}
    )
