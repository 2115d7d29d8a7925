"""Towers of ours in open_clip's words: a module arrives, settings and rules for the names leave, or a reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders import (
    ClipTextTransformer,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    OpenClipImageEncoder,
    OpenClipTextEncoder,
    TimmImageEncoder,
)
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection, MlpProjection
from lightning_clip.export import layouts, siglip
from lightning_clip.export.rules import Rule
from lightning_clip.export.shapes import clip_resnet, clip_vit, linear_bias
from lightning_clip.export.tokens import end_token
from lightning_clip.export.towers import mlp_ratio
from lightning_clip.model import ClipModel
from lightning_clip.module import ClipModule

__all__ = ["Part", "image_part", "temperature_rules", "text_config", "text_part"]

_POOLERS = {"mean": "mean_pooler", "max": "max_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}

_BERTS = "chinese_clip"


@dataclass
class Part:
    """A tower as open_clip has it.

    Attributes:
        settings: its `vision_cfg` or `text_cfg`.
        rules: names of its weights.
        quick_gelu: what it needs open_clip's flag to be; None where the flag does nothing.
        custom: whether its weights lie under "text.".
        extra: weights that open_clip has and we do not.
        before: rules that make weights of the form in `rules` from those of the module, where it has another form.
    """

    settings: dict[str, Any]
    rules: list[Rule]
    quick_gelu: bool | None = None
    custom: bool = False
    extra: dict[str, Tensor] = field(default_factory=dict)
    before: list[Rule] = field(default_factory=list)


def image_part(module: ClipModule) -> Part | str:
    """The image tower, or why open_clip has none like it."""
    model, encoder = module.model, module.model.image_encoder
    head, linear = model.image_projection, isinstance(model.image_projection, LinearProjection)
    if (sizes := clip_vit(encoder)) is not None and linear and not linear_bias(model, "image"):
        rules = [*layouts.open_clip_vit(sizes["depth"]), *layouts.head("image", "visual.proj", transposed=True)]
        settings = {key: sizes[key] for key in ("image_size", "patch_size", "width")}
        settings |= {"layers": sizes["depth"], "head_width": sizes["width"] // sizes["heads"]}
        return Part({**settings, "mlp_ratio": mlp_ratio(sizes["hidden"], sizes["width"])}, rules, sizes["quick_gelu"])
    if (resnet := clip_resnet(encoder)) is not None and linear and resnet["image_size"] == encoder.image_size:
        rules, extra = layouts.open_clip_resnet(tuple(resnet["layers"])), {}
        if not linear_bias(model, "image"):
            rules = [rule for rule in rules if rule.ours != "image_projection.bias"]
            extra = {"visual.attnpool.c_proj.bias": torch.zeros(module.embed_dim)}
        return Part(resnet, rules, extra=extra)
    if isinstance(encoder, OpenClipImageEncoder):
        rules = _same("image_encoder.model.", "visual.", encoder.model)
        if linear and linear_bias(model, "image"):
            return "its image projection has a bias"
        rules += layouts.head("image", "visual.proj", transposed=True) if linear else []
        return Part({**encoder.config, "output_tokens": False}, rules, encoder.quick_gelu)
    if isinstance(encoder, TimmImageEncoder):
        if others := {key: value for key, value in encoder.options.items() if key != "drop_path_rate"}:
            return f"open_clip builds timm's {encoder.architecture!r} without options, and this one has {others}"
        if not isinstance(head, LinearProjection | IdentityProjection):
            return f"its image projection is a {type(head).__name__}"
        bias = linear_bias(model, "image")
        projection = {"timm_proj": "linear" if linear else "none", "timm_proj_bias": bias}
        settings = {"timm_model_name": encoder.architecture, "timm_pool": "" if linear else _pool(encoder), **projection}
        rules = _same("image_encoder.model.", "visual.trunk.", encoder.model)
        rules += layouts.head("image", "visual.head.proj", bias=bias) if linear else []
        settings |= {"timm_drop_path": encoder.options.get("drop_path_rate"), "image_size": encoder.image_size}
        return Part(settings, rules)
    if isinstance(encoder, HuggingFaceImageEncoder) and siglip.is_transformers_siglip(encoder):
        return _siglip_image(encoder, head)
    return f"its image tower is a {type(encoder).__name__}"


def _siglip_image(encoder: HuggingFaceImageEncoder, head: nn.Module) -> Part | str:
    name = siglip.timm_name(encoder)
    if name is None:
        act = encoder.model.config.hidden_act
        return f"open_clip has its image tower from timm, where none of SigLIP's has these sizes and the activation {act!r}"
    if not isinstance(head, IdentityProjection):
        return f"its image projection is a {type(head).__name__}"
    settings = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none", "image_size": encoder.image_size}
    before = siglip.image_rules(len(encoder.blocks()), "image_encoder.model.")
    return Part(settings, _below(before, "image_encoder.model.", "visual.trunk."), before=before)


def _pool(encoder: TimmImageEncoder) -> str:
    model: Any = encoder.model
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return str(pool if isinstance(pool, str) else getattr(pool, "pool_type", ""))


def text_part(module: ClipModule, folder: str) -> Part | str:
    """The text tower, or why open_clip has none like it; `folder` will hold the configuration of a Hugging Face model."""
    model, encoder = module.model, module.model.text_encoder
    head, linear = model.text_projection, isinstance(model.text_projection, LinearProjection)
    tokenizer = module.tokenizer.to_mapping()
    own: dict[str, Any] = {} if tokenizer["name"] == "clip" else {"hf_tokenizer_name": "."}
    if tokenizer.get("clean"):
        own["tokenizer_kwargs"] = {"clean": tokenizer["clean"]}
    bias = linear_bias(model, "text")
    if not isinstance(head, LinearProjection | IdentityProjection | MlpProjection):
        return f"its text projection is a {type(head).__name__}"
    if isinstance(encoder, ClipTextTransformer):
        if not linear or bias:
            return "its text projection is no plain matrix"
        end = end_token(module.tokenizer)
        if end is None:
            return "its tokenizer does not end each text with one id, by which open_clip would find the end"
        last = {} if tokenizer["name"] == "clip" else {"pool_type": "eos", "eos_id": end}
        sizes = {key: getattr(encoder, key) for key in ("context_length", "vocab_size", "width", "heads", "layers")}
        rules = [*layouts.open_clip_text(encoder.layers), *layouts.head("text", "text_projection", transposed=True)]
        return Part({**sizes, **last, **own}, rules, encoder.quick_gelu)
    if isinstance(encoder, OpenClipTextEncoder):
        rules = _same("text_encoder.model.", "text.", encoder.model)
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
    rules = [*_below(before, "text_encoder.model.", "text."), *layouts.head("text", "text.text_projection", bias=True)]
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
    rules = _same("text_encoder.model.", "text.transformer.", encoder.model)
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
    if getattr(encoder.model, "family", None) != _BERTS:
        return config
    from transformers import BertConfig

    return BertConfig(
        **{key: value for key, value in config.to_dict().items() if key in BertConfig().to_dict() and key != "model_type"}
    )


def temperature_rules(model: ClipModel) -> list[Rule]:
    """Rules for the learned scale and bias."""
    return layouts.temperature(bias=model.logit_bias is not None)


def _below(rules: list[Rule], ours: str, theirs: str) -> list[Rule]:
    """Rules for the weights below a prefix that others have made, as they are."""
    return [Rule(rule.ours, (theirs + rule.ours.removeprefix(ours),)) for rule in rules if rule.ours.startswith(ours)]


def _same(ours: str, theirs: str, module: nn.Module) -> list[Rule]:
    """Rules for a module that both sides hold as it is."""
    return [Rule(ours + key, (theirs + key,)) for key in module.state_dict()]
