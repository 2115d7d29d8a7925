"""SigLIP's towers in two words: those of timm and open_clip beside those of transformers, names of weights and settings.

Both keep the same numbers under other names (Zhai et al. 2023, https://arxiv.org/abs/2303.15343). The activation differs among
published weights: a form that lacks it is refused, nothing is approximated.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from lightning_clip.encoders import (
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    ImageEncoder,
    OpenClipTextEncoder,
    TextEncoder,
    image_encoders,
)
from lightning_clip.weights.open_clip_parts import TOKENIZER_SETTINGS, complete, is_plain
from lightning_clip.weights.rules import Rule, SettingsTable, renamed
from lightning_clip.weights.shapes import same_structure, unallocated, vit_sizes
from lightning_clip.weights.towers import mlp_ratio

__all__ = [
    "image_rules",
    "is_transformers_siglip",
    "open_clip_text_settings",
    "text_rules",
    "timm_name",
    "timm_spec",
    "transformers_text_settings",
    "transformers_vision_settings",
]

_IMAGE, _TEXT = "image_encoder.model.", "text_encoder.model."
# timm's plainest architecture with each activation.
_PLAIN = {"gelu": "vit_base_patch16_siglip_224", "gelu_pytorch_tanh": "vit_base_patch32_siglip_256"}
# Sizes of timm's Vision Transformer beside transformers' vision_config.
_VISION = SettingsTable(
    {
        "image_size": "image_size",
        "patch_size": "patch_size",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "hidden": "intermediate_size",
        "act": "hidden_act",
    },
    always={"layer_norm_eps": 1e-6},
)
# open_clip's text_cfg beside transformers' text_config; `act` and `eps` stand for its `act_kwargs` and `norm_kwargs`.
_TEXTS = SettingsTable(
    {
        "context_length": "max_position_embeddings",
        "vocab_size": "vocab_size",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_hidden_layers",
        "hidden": "intermediate_size",
        "act": "hidden_act",
        "eps": "layer_norm_eps",
    },
    {"act": {"": "gelu", "tanh": "gelu_pytorch_tanh"}},
)
_OPEN_CLIP_ALWAYS = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
# Settings that are carried over, or that change nothing here; every other one must be at its default.
_TEXT_SETTINGS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "act_kwargs"}
_TEXT_SETTINGS |= {"no_causal_mask", "pool_type", "proj_bias", "proj_type", "output_tokens", "pad_id", *TOKENIZER_SETTINGS}


def image_rules(depth: int, theirs: str = "vision_model.") -> list[Rule]:
    """Timm's image tower (ours) beside transformers'."""
    rules = [
        Rule(f"{_IMAGE}pos_embed", (f"{theirs}embeddings.position_embedding.weight",), lead=1),
        *renamed(_IMAGE, theirs, {"patch_embed.proj": "embeddings.patch_embedding", "norm": "post_layernorm"}),
    ]
    for layer in range(depth):
        names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
        block = f"{_IMAGE}blocks.{layer}.", f"{theirs}encoder.layers.{layer}."
        rules += renamed(*block, {**names, "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"})
        rules += [Rule(f"{block[0]}attn.qkv.{end}", _qkv(block[1], end)) for end in ("weight", "bias")]
    pool, head = f"{_IMAGE}attn_pool.", f"{theirs}head."
    rules.append(Rule(f"{pool}latent", (f"{head}probe",)))
    for end in ("weight", "bias"):
        joined = (f"{head}attention.in_proj_{end}",)
        rules += [Rule(f"{pool}q.{end}", joined, rows=(0, 1, 3)), Rule(f"{pool}kv.{end}", joined, rows=(1, 3, 3))]
    names = {"proj": "attention.out_proj", "norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    return rules + renamed(pool, head, names)


def text_rules(depth: int, theirs: str = "text_model.") -> list[Rule]:
    """open_clip's text tower with our projection (ours) beside transformers'."""
    rules = [
        Rule(f"{_TEXT}token_embedding.weight", (f"{theirs}embeddings.token_embedding.weight",)),
        Rule(f"{_TEXT}positional_embedding", (f"{theirs}embeddings.position_embedding.weight",)),
        *renamed(_TEXT, theirs, {"ln_final": "final_layer_norm"}),
        *renamed("text_projection", f"{theirs}head", {"": ""}),
    ]
    for layer in range(depth):
        names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
        block = f"{_TEXT}transformer.resblocks.{layer}.", f"{theirs}encoder.layers.{layer}."
        rules += renamed(*block, {**names, "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"})
        rules += [Rule(f"{block[0]}attn.in_proj_{end}", _qkv(block[1], end)) for end in ("weight", "bias")]
    return rules


def _qkv(block: str, end: str) -> tuple[str, ...]:
    return tuple(f"{block}self_attn.{part}_proj.{end}" for part in "qkv")


def transformers_vision_settings(encoder: ImageEncoder) -> dict[str, Any] | None:
    """Transformers' settings of a tower that timm builds like SigLIP's; None for any other tower."""
    sizes = vit_sizes(encoder)
    if sizes is None:
        return None
    sizes["act"] = "gelu_pytorch_tanh" if "Tanh" in sizes["act"] else "gelu"
    twin = unallocated(_timm_spec(sizes))
    return _VISION.to_theirs(sizes) if twin is not None and same_structure(encoder.model, twin.model) else None


def timm_name(encoder: HuggingFaceImageEncoder) -> str | None:
    """The name under which timm has transformers' image tower exactly; None if there is none, often for its activation."""
    config = encoder.model.config.to_dict()
    for name in timm.list_models(f"vit_*_patch{config['patch_size']}_siglip_{encoder.image_size}"):
        with torch.device("meta"):
            known: Any = image_encoders.build({"name": name, "image_size": encoder.image_size})
        sizes = transformers_vision_settings(known)
        if sizes is not None and all(config[key] == value for key, value in sizes.items()):
            return str(name)
    return None


def timm_spec(encoder: HuggingFaceImageEncoder) -> dict[str, Any] | None:
    """Name, image size and options with which timm builds transformers' image tower of any size; None if it cannot."""
    config = encoder.model.config.to_dict()
    sizes = _VISION.to_ours(config)
    return _timm_spec(sizes) if _VISION.holds(config) and sizes["act"] in _PLAIN else None


def transformers_text_settings(encoder: TextEncoder) -> dict[str, Any] | None:
    """Transformers' settings of a text tower that open_clip builds like SigLIP's; None for any other tower."""
    from open_clip.model import CLIPTextCfg

    if not isinstance(encoder, OpenClipTextEncoder) or encoder.quick_gelu:
        return None
    if not is_plain(CLIPTextCfg, encoder.config, _TEXT_SETTINGS):
        return None
    settings = complete(CLIPTextCfg, encoder.config)
    act, norm = dict(settings["act_kwargs"] or {}), {"eps": 1e-5, **(settings["norm_kwargs"] or {})}
    sees_all = settings["no_causal_mask"] and settings["pool_type"] == "last"
    if not sees_all or act not in ({}, {"approximate": "tanh"}) or len(norm) > 1:
        return None
    hidden = int(settings["width"] * settings["mlp_ratio"])
    sizes = {**settings, "hidden": hidden, "act": act.get("approximate", ""), **norm}
    return {**_TEXTS.to_theirs(sizes), "pad_token_id": encoder.pad_id}


def open_clip_text_settings(encoder: HuggingFaceTextEncoder) -> dict[str, Any] | None:
    """open_clip's `text_cfg` for transformers' text tower; None for an activation that it lacks."""
    config = encoder.model.config.to_dict()
    if not _TEXTS.holds(config):
        return None
    sizes = _TEXTS.to_ours(config)
    act, norm = sizes.pop("act"), {"eps": sizes.pop("eps")}
    sizes["mlp_ratio"] = mlp_ratio(sizes.pop("hidden"), sizes["width"])
    return {**sizes, **_OPEN_CLIP_ALWAYS, "norm_kwargs": norm, **({"act_kwargs": {"approximate": act}} if act else {})}


def is_transformers_siglip(encoder: nn.Module) -> bool:
    """Whether a tower is transformers' SigLIP with its own pooling."""
    found = isinstance(encoder, HuggingFaceImageEncoder | HuggingFaceTextEncoder)
    return found and encoder.family == "siglip" and encoder.pooling == "pooler"


def _timm_spec(sizes: dict[str, Any]) -> dict[str, Any]:
    """Timm's tower of these sizes."""
    spec = {"name": _PLAIN[sizes["act"]], "image_size": sizes["image_size"], "patch_size": sizes["patch_size"]}
    spec |= {"embed_dim": sizes["width"], "depth": sizes["depth"], "num_heads": sizes["heads"]}
    return {**spec, "mlp_ratio": mlp_ratio(sizes["hidden"], sizes["width"])}
