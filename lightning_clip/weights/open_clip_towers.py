"""The image tower of an open_clip model: the live model and its settings arrive, a tower of ours leaves.

CLIP's own Vision Transformers, ResNets and causal text Transformers become the native towers, timm's models and Hugging Face's
the encoders for them; anything else stays open_clip's module, built from its settings.
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.weights import layouts
from lightning_clip.weights.open_clip_parts import LINEAR, NONE, is_plain, without_head, wrapped
from lightning_clip.weights.positions import resized_grid
from lightning_clip.weights.rules import to_ours
from lightning_clip.weights.towers import Tower, timm_vit, under

__all__ = ["RESNETS", "image_tower", "openai_config"]

# Blocks per stage and width -> timm's name.
RESNETS: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 64): "resnet50_clip",
    ((3, 4, 23, 3), 64): "resnet101_clip",
    ((4, 6, 10, 6), 80): "resnet50x4_clip",
    ((6, 8, 18, 8), 96): "resnet50x16_clip",
    ((3, 15, 36, 10), 128): "resnet50x64_clip",
}
_RESNET_STRIDE = 32
# Settings that the native towers have; every other one must be at its default.
_PLAIN = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "output_tokens"}
_MODEL = "image_encoder.model."


def image_tower(model: Any, config: dict[str, Any], image_size: int | None, label: str) -> Tower:
    """The image tower of a live model whose settings are `config`, for images of another size if one is given."""
    from open_clip.model import CLIPVisionCfg

    settings, weights = config["vision_cfg"], model.visual.state_dict(prefix="visual.")
    own = settings.get("image_size", 224)
    if isinstance(own, list | tuple) and own[0] != own[-1]:
        raise InputError(f"{label} takes images of {tuple(own)}: only square ones are supported")
    size = image_size or int(own[0] if isinstance(own, list | tuple) else own)
    if settings.get("timm_model_name"):
        return _timm(model.visual, config, size)
    layers, width = settings.get("layers", 12), settings.get("width", 768)
    if isinstance(layers, list | tuple):
        if size % _RESNET_STRIDE:
            raise InputError(f"image_size {size} is not a multiple of {_RESNET_STRIDE}, the stride of {label}")
        name = RESNETS.get((tuple(layers), width))
        if name and own == _size_in_timm(name) and settings.get("head_width", 64) == 64:
            weights = to_ours(layouts.open_clip_resnet(tuple(layers)), weights, label)
            return Tower({"name": name, "image_size": size}, {"name": "linear", "bias": True}, weights)
        weights = under("visual.", weights, _MODEL)
        key, patch = f"{_MODEL}attnpool.positional_embedding", _RESNET_STRIDE
        weights[key] = resized_grid(weights[key], size, patch, class_tokens=1)
        return Tower(wrapped(config, "vision_cfg", image_size=size), NONE, weights)
    patch = settings.get("patch_size", 16)
    if is_plain(CLIPVisionCfg, settings, _PLAIN):
        heads, hidden = width // settings.get("head_width", 64), len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"])
        sizes = {"image_size": size, "patch_size": patch, "width": width, "depth": layers, "heads": heads, "hidden": hidden}
        rules = [*layouts.open_clip_vit(layers), *layouts.head("image", "visual.proj", transposed=True)]
        found, key = to_ours(rules, weights, label), f"{_MODEL}pos_embed"
        found[key] = resized_grid(found[key], size, patch, class_tokens=1)
        return Tower(timm_vit(quick_gelu=bool(config.get("quick_gelu")), **sizes), LINEAR, found)
    found = under("visual.", weights, _MODEL)
    key = f"{_MODEL}positional_embedding"
    if image_size is not None and key in found:
        found[key] = resized_grid(found[key], size, patch, class_tokens=1)
    head, found = without_head(found, f"{_MODEL}proj", "image")
    return Tower(wrapped(config, "vision_cfg", image_size=size), head, found)


def _timm(visual: Any, config: dict[str, Any], size: int) -> Tower:
    settings = config["vision_cfg"]
    trunk = visual.trunk
    if size != visual.image_size[0]:
        if not hasattr(visual, "set_input_size"):
            raise InputError(f"timm's {settings['timm_model_name']!r} takes images of {visual.image_size[0]} only")
        try:
            visual.set_input_size((size, size))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(f"image_size {size} does not suit timm's {settings['timm_model_name']!r}: {error}") from error
    heads = [name for name, _ in visual.head.named_children() if name != "drop"]
    plain = heads in ([], ["proj"]) and not any(settings.get(key) for key in ("timm_proj_bias", "patch_dropout", "timm_drop"))
    spec = {"name": settings["timm_model_name"], "image_size": size}
    if settings.get("timm_drop_path") is not None:
        spec["drop_path_rate"] = settings["timm_drop_path"]
    if plain and (heads or settings.get("timm_proj") == "none") and _is_same(trunk, spec):
        weights = {**under("", trunk.state_dict(), _MODEL), **under("", _head_of(visual), "image_projection.")}
        return Tower(spec, LINEAR if heads else NONE, weights)
    return Tower(wrapped(config, "vision_cfg", image_size=size), NONE, under("", visual.state_dict(), _MODEL))


def _size_in_timm(name: str) -> int:
    found: Any = timm.get_pretrained_cfg(name)
    return int(found.input_size[-1])


def _head_of(visual: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = visual.head.proj.state_dict() if hasattr(visual.head, "proj") else {}
    return found


def _is_same(trunk: nn.Module, spec: dict[str, Any]) -> bool:
    """Whether our encoder of that spec is the same module: open_clip may have changed its pooling after building it."""
    from lightning_clip.encoders import image_encoders

    try:
        with torch.device("meta"):
            model: Any = image_encoders.build(spec)
    except (RuntimeError, NotImplementedError):  # some architectures compute while they are built
        return False
    same_pool = repr(getattr(model.model, "global_pool", None)) == repr(getattr(trunk, "global_pool", None))
    return same_pool and repr(model.model) == repr(trunk)


def openai_config(weights: dict[str, Tensor]) -> dict[str, Any]:
    """open_clip's settings of OpenAI's weights, read off their shapes."""
    stages = [{key.split(".")[2] for key in weights if key.startswith(f"visual.layer{stage}.")} for stage in range(1, 5)]
    if all(stages):
        grid = math.isqrt(len(weights["visual.attnpool.positional_embedding"]) - 1)
        layers: Any = [len(blocks) for blocks in stages]
        vision = {"layers": layers, "width": len(weights["visual.layer1.0.conv1.weight"]), "image_size": grid * _RESNET_STRIDE}
    else:
        width, _, _, patch = weights["visual.conv1.weight"].shape
        grid = math.isqrt(len(weights["visual.positional_embedding"]) - 1)
        layers = sum(key.endswith("ln_1.weight") for key in weights if key.startswith("visual."))
        vision = {"layers": layers, "width": width, "patch_size": patch, "image_size": grid * patch}
    vocabulary, width = weights["token_embedding.weight"].shape
    text = {
        "context_length": len(weights["positional_embedding"]),
        "vocab_size": vocabulary,
        "width": width,
        "heads": width // 64,
    }
    text["layers"] = sum(key.endswith("ln_1.weight") for key in weights if key.startswith("transformer."))
    return {"embed_dim": weights["text_projection"].shape[1], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
