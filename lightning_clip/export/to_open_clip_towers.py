"""Image towers of ours in open_clip's words: a module arrives, settings and rules for the names leave, or a reason why not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders import HuggingFaceImageEncoder, OpenClipImageEncoder, TimmImageEncoder
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.weights import layouts, siglip
from lightning_clip.weights.rules import Rule, below, same_names
from lightning_clip.weights.shapes import clip_resnet, clip_vit, linear_bias
from lightning_clip.weights.towers import mlp_ratio

__all__ = ["Part", "image_part"]


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
        rules = same_names("image_encoder.model.", "visual.", encoder.model)
        if linear and linear_bias(model, "image"):
            return "its image projection has a bias"
        rules += layouts.head("image", "visual.proj", transposed=True) if linear else []
        return Part({**encoder.config, "output_tokens": False}, rules, encoder.quick_gelu)
    if isinstance(encoder, TimmImageEncoder):
        if others := {key: value for key, value in encoder.options.items() if key != "drop_path_rate"}:
            return f"open_clip builds timm's {encoder.architecture!r} without options, and this one has {others}"
        if not isinstance(head, LinearProjection | IdentityProjection):
            return f"its image projection is a {type(head).__name__}"
        if linear and (width := int(encoder.model.num_features)) != encoder.output_dim:  # type: ignore[arg-type]
            return f"open_clip projects {width} features of timm's {encoder.architecture!r}, which has {encoder.output_dim}"
        bias = linear_bias(model, "image")
        projection = {"timm_proj": "linear" if linear else "none", "timm_proj_bias": bias}
        settings = {"timm_model_name": encoder.architecture, "timm_pool": "" if linear else _pool(encoder), **projection}
        rules = same_names("image_encoder.model.", "visual.trunk.", encoder.model)
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
    return Part(settings, below(before, "image_encoder.model.", "visual.trunk."), before=before)


def _pool(encoder: TimmImageEncoder) -> str:
    model: Any = encoder.model
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return str(pool if isinstance(pool, str) else getattr(pool, "pool_type", ""))
