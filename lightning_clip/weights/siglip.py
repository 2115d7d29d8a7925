"""SigLIP's two forms, that of timm and open_clip and that of transformers: a tower arrives, settings in the other form leave.

Both keep the same numbers under other names (Zhai et al. 2023, https://arxiv.org/abs/2303.15343), one table each for pictures
and texts. The activation differs among published weights: a form that lacks it is refused, nothing is approximated.
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
    TimmImageEncoder,
    image_encoders,
)
from lightning_clip.weights.open_clip_parts import is_plain
from lightning_clip.weights.rules import Rule, renamed
from lightning_clip.weights.shapes import same_structure
from lightning_clip.weights.towers import mlp_ratio

__all__ = [
    "image_rules",
    "is_transformers_siglip",
    "open_clip_text_settings",
    "text_rules",
    "timm_name",
    "transformers_text_settings",
    "transformers_vision_settings",
]

_IMAGE, _TEXT = "image_encoder.model.", "text_encoder.model."
# timm's plainest architecture with each activation.
_PLAIN = {"gelu": "vit_base_patch16_siglip_224", "gelu_pytorch_tanh": "vit_base_patch32_siglip_256"}
# Settings that are carried over, or that change nothing here; every other one must be at its default.
_TEXT_SETTINGS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "norm_kwargs", "act_kwargs"}
_TEXT_SETTINGS |= {"no_causal_mask", "pool_type", "proj_bias", "proj_type", "output_tokens", "pad_id"}
_TEXT_SETTINGS |= {"hf_tokenizer_name", "hf_model_pretrained", "tokenizer_mode", "tokenizer_kwargs"}


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
    model: Any = getattr(encoder, "model", None)
    if not isinstance(encoder, TimmImageEncoder) or getattr(model, "global_pool", None) != "map" or not len(model.blocks):
        return None
    block = model.blocks[0]
    try:
        act = "gelu_pytorch_tanh" if "Tanh" in type(block.mlp.act).__name__ else "gelu"
        sizes = {
            "image_size": encoder.image_size,
            "patch_size": model.patch_embed.proj.kernel_size[0],
            "hidden_size": model.embed_dim,
            "num_hidden_layers": len(model.blocks),
            "num_attention_heads": block.attn.num_heads,
            "intermediate_size": block.mlp.fc1.out_features,
            "hidden_act": act,
            "layer_norm_eps": 1e-6,
        }
    except AttributeError:  # it is made of other parts
        return None
    twin = _twin(_PLAIN[act], sizes)
    return sizes if twin is not None and same_structure(model, twin.model) else None


def timm_name(encoder: HuggingFaceImageEncoder) -> str | None:
    """The name under which timm has transformers' image tower exactly; None if there is none, often for its activation."""
    config: Any = encoder.model.config
    for name in timm.list_models(f"vit_*_patch{config.patch_size}_siglip_{encoder.image_size}"):
        with torch.device("meta"):
            known: Any = image_encoders.build({"name": name, "image_size": encoder.image_size})
        sizes = transformers_vision_settings(known)
        if sizes is not None and all(getattr(config, key) == value for key, value in sizes.items()):
            return str(name)
    return None


def transformers_text_settings(encoder: TextEncoder) -> dict[str, Any] | None:
    """Transformers' settings of a text tower that open_clip builds like SigLIP's; None for any other tower."""
    from open_clip.model import CLIPTextCfg

    if not isinstance(encoder, OpenClipTextEncoder) or encoder.quick_gelu:
        return None
    settings = encoder.config
    if not settings.get("no_causal_mask") or settings.get("pool_type") != "last":
        return None
    act, norm = dict(settings.get("act_kwargs") or {}), {"eps": 1e-5, **(settings.get("norm_kwargs") or {})}
    if not is_plain(CLIPTextCfg, settings, _TEXT_SETTINGS) or act not in ({}, {"approximate": "tanh"}) or len(norm) > 1:
        return None
    return {
        "vocab_size": encoder.vocab_size,
        "hidden_size": encoder.output_dim,
        "num_hidden_layers": len(encoder.blocks()),
        "num_attention_heads": settings.get("heads", 8),
        "intermediate_size": encoder.model.get_parameter("transformer.resblocks.0.mlp.c_fc.bias").numel(),
        "max_position_embeddings": encoder.context_length,
        "hidden_act": "gelu_pytorch_tanh" if act else "gelu",
        "layer_norm_eps": norm["eps"],
        "pad_token_id": encoder.pad_id,
    }


def open_clip_text_settings(encoder: HuggingFaceTextEncoder) -> dict[str, Any] | None:
    """open_clip's `text_cfg` for transformers' text tower; None for an activation that it lacks."""
    config: Any = encoder.model.config
    acts: dict[str, dict[str, Any]] = {"gelu": {}, "gelu_pytorch_tanh": {"act_kwargs": {"approximate": "tanh"}}}
    if config.hidden_act not in acts:
        return None
    return {
        "context_length": config.max_position_embeddings,
        "vocab_size": config.vocab_size,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "layers": config.num_hidden_layers,
        "mlp_ratio": mlp_ratio(config.intermediate_size, config.hidden_size),
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": config.layer_norm_eps},
        **acts[config.hidden_act],
    }


def is_transformers_siglip(encoder: nn.Module) -> bool:
    """Whether a tower is transformers' SigLIP with its own pooling."""
    pooled = isinstance(encoder, HuggingFaceImageEncoder | HuggingFaceTextEncoder) and encoder.pooling == "pooler"
    return pooled and getattr(encoder.model, "family", None) == "siglip"


def _twin(name: str, sizes: dict[str, Any]) -> Any:
    """Timm's tower of these sizes, without memory; None where they make no tower."""
    spec = {"name": name, "image_size": sizes["image_size"], "patch_size": sizes["patch_size"]}
    spec |= {"embed_dim": sizes["hidden_size"], "depth": sizes["num_hidden_layers"], "num_heads": sizes["num_attention_heads"]}
    spec["mlp_ratio"] = mlp_ratio(sizes["intermediate_size"], sizes["hidden_size"])
    try:
        with torch.device("meta"):
            return image_encoders.build(spec)
    except (RuntimeError, AssertionError, ZeroDivisionError):
        return None
