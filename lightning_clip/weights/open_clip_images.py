"""open_clip's image towers, in and out: each kind is read and written by two functions side by side.

CLIP's own Vision Transformers and ResNets become the native towers, timm's models the encoder for them; anything else stays
open_clip's module, built from its settings.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.encoders import HuggingFaceImageEncoder, ImageEncoder, OpenClipImageEncoder, TimmImageEncoder
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection
from lightning_clip.weights import clip, siglip
from lightning_clip.weights.open_clip_parts import LINEAR, NONE, complete, is_plain, without_head, wrapped
from lightning_clip.weights.positions import resized_grid
from lightning_clip.weights.rules import below, same_names, to_ours
from lightning_clip.weights.shapes import clip_resnet, clip_vit, has_bias, unallocated
from lightning_clip.weights.towers import ForeignTower, NotHeld, TowerWeights, under

__all__ = ["read_image", "write_image"]

# Settings that the native towers have; every other one must be at its default.
_PLAIN = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size", "output_tokens"}
# Settings of timm's towers for which our encoder has no word.
_ODD_TIMM = ("timm_proj_bias", "patch_dropout", "timm_drop")
_MODEL = "image_encoder.model."


def read_image(visual: nn.Module, config: dict[str, Any], image_size: int | None, label: str) -> TowerWeights:
    """A live image tower of open_clip's in our words.

    Args:
        visual: the tower, with weights.
        config: settings of the whole model.
        image_size: side of the square images in pixels; None takes the tower's own.
        label: of the source, for messages.

    Raises:
        InputError: images that are not square, or a size that the tower cannot take.
    """
    from open_clip.model import CLIPVisionCfg

    settings = complete(CLIPVisionCfg, config["vision_cfg"])
    own = settings["image_size"]
    if isinstance(own, list | tuple) and own[0] != own[-1]:
        raise InputError(f"{label} takes images of {tuple(own)}: only square ones are supported")
    size = image_size or int(own[0] if isinstance(own, list | tuple) else own)
    in_range(f"{label}: image_size", size, 1, whole=True)
    if settings["timm_model_name"]:
        return _read_timm(visual, config, size)
    weights = visual.state_dict(prefix="visual.")
    if isinstance(settings["layers"], list | tuple):
        return _read_resnet(weights, config, settings, size, label)
    if is_plain(CLIPVisionCfg, config["vision_cfg"], _PLAIN):
        sizes = {**clip.open_clip_vit_sizes(settings), "image_size": size}
        return read_vit(weights, sizes, bool(config.get("quick_gelu")), label)
    return _read_wrapped(weights, config, size, settings["patch_size"] if image_size else None)


def write_image(encoder: ImageEncoder, head: nn.Module) -> ForeignTower:
    """An image tower of ours as open_clip has it.

    Args:
        encoder: the tower, with weights.
        head: its projection.

    Raises:
        NotHeld: open_clip has none like it.
    """
    for write in (_write_vit, _write_resnet, _write_wrapped, _write_timm, _write_siglip):
        if (found := write(encoder, head)) is not None:
            return found
    raise NotHeld(f"its image tower is a {type(encoder).__name__}")


def read_vit(weights: dict[str, Tensor], sizes: dict[str, Any], quick_gelu: bool, label: str) -> TowerWeights:
    """CLIP's Vision Transformer, as OpenAI, open_clip and Chinese-CLIP keep it.

    Args:
        weights: by their names, under "visual.".
        sizes: arguments of `timm_vit`; positions are resized to their `image_size`.
        quick_gelu: its activation.
        label: of the source, for messages.
    """
    rules = [*clip.open_clip_vit(sizes["depth"]), *clip.head("image", "visual.proj", transposed=True)]
    found, key = to_ours(rules, weights, label), clip.IMAGE_POSITIONS
    found[key] = resized_grid(found[key], sizes["image_size"], sizes["patch_size"], class_tokens=1)
    return TowerWeights(clip.timm_vit(quick_gelu=quick_gelu, **sizes), LINEAR, found)


def _write_vit(encoder: ImageEncoder, head: nn.Module) -> ForeignTower | None:
    sizes = clip_vit(encoder)
    if sizes is None or not isinstance(head, LinearProjection) or has_bias(head):
        return None
    rules = [*clip.open_clip_vit(sizes["depth"]), *clip.head("image", "visual.proj", transposed=True)]
    return ForeignTower(clip.open_clip_vit_settings(sizes), rules, sizes["quick_gelu"])


def _read_resnet(
    weights: dict[str, Tensor], config: dict[str, Any], settings: dict[str, Any], size: int, label: str
) -> TowerWeights:
    stride = clip.RESNET_STRIDE
    if size % stride:
        raise InputError(f"image_size {size} is not a multiple of {stride}, the stride of {label}")
    layers = tuple(settings["layers"])
    name = clip.RESNETS.get((layers, settings["width"]))
    if name and settings["image_size"] == _size_in_timm(name) and settings["head_width"] == 64:
        weights = to_ours(clip.open_clip_resnet(layers), weights, label)
        return TowerWeights({"name": name, "image_size": size}, {"name": "linear", "bias": True}, weights)
    weights = under("visual.", weights, _MODEL)
    key = f"{_MODEL}attnpool.positional_embedding"
    weights[key] = resized_grid(weights[key], size, stride, class_tokens=1)
    return TowerWeights(wrapped(config, "vision_cfg", image_size=size), NONE, weights)


def _write_resnet(encoder: ImageEncoder, head: nn.Module) -> ForeignTower | None:
    settings = clip_resnet(encoder)
    if settings is None or not isinstance(head, LinearProjection) or settings["image_size"] != encoder.image_size:
        return None
    rules, extra = clip.open_clip_resnet(tuple(settings["layers"])), {}
    if not has_bias(head):
        rules = [rule for rule in rules if rule.ours != "image_projection.bias"]
        extra = {"visual.attnpool.c_proj.bias": torch.zeros(head.out_features)}
    return ForeignTower(settings, rules, extra=extra)


def _read_wrapped(weights: dict[str, Tensor], config: dict[str, Any], size: int, patch_size: int | None) -> TowerWeights:
    """With positions of another size where `patch_size` is given."""
    found, key = under("visual.", weights, _MODEL), f"{_MODEL}positional_embedding"
    if patch_size is not None and key in found:
        found[key] = resized_grid(found[key], size, patch_size, class_tokens=1)
    head, found = without_head(found, f"{_MODEL}proj", "image")
    return TowerWeights(wrapped(config, "vision_cfg", image_size=size), head, found)


def _write_wrapped(encoder: ImageEncoder, head: nn.Module) -> ForeignTower | None:
    if not isinstance(encoder, OpenClipImageEncoder):
        return None
    _check_head(head)
    if has_bias(head):
        raise NotHeld("its image projection has a bias")
    rules = same_names(_MODEL, "visual.", encoder.model)
    rules += clip.head("image", "visual.proj", transposed=True) if isinstance(head, LinearProjection) else []
    return ForeignTower({**encoder.config, "output_tokens": False}, rules, encoder.quick_gelu)


def _read_timm(visual: Any, config: dict[str, Any], size: int) -> TowerWeights:
    settings = config["vision_cfg"]
    name = settings["timm_model_name"]
    if size != visual.image_size[0]:
        _resize_timm(visual, name, size)
    drop = {} if settings.get("timm_drop_path") is None else {"drop_path_rate": settings["timm_drop_path"]}
    spec = {"name": name, "image_size": size, **drop}
    heads = [part for part, _ in visual.head.named_children() if part != "drop"]
    plain = heads == ["proj"] or (not heads and settings.get("timm_proj") == "none")
    if plain and not any(map(settings.get, _ODD_TIMM)) and _is_same(visual.trunk, spec):
        weights = under("", visual.trunk.state_dict(), _MODEL)
        weights |= under("", visual.head.proj.state_dict(), "image_projection.") if heads else {}
        return TowerWeights(spec, LINEAR if heads else NONE, weights)
    return TowerWeights(wrapped(config, "vision_cfg", image_size=size), NONE, under("", visual.state_dict(), _MODEL))


def _write_timm(encoder: ImageEncoder, head: nn.Module) -> ForeignTower | None:
    if not isinstance(encoder, TimmImageEncoder):
        return None
    linear, name = isinstance(head, LinearProjection), encoder.architecture
    if others := {key: value for key, value in encoder.options.items() if key != "drop_path_rate"}:
        raise NotHeld(f"open_clip builds timm's {name!r} without options, and this one has {others}")
    _check_head(head)
    if linear and (width := int(encoder.model.num_features)) != encoder.output_dim:  # type: ignore[arg-type]
        raise NotHeld(f"open_clip projects {width} features of timm's {name!r}, which has {encoder.output_dim}")
    settings = {
        "timm_model_name": name,
        "timm_pool": "" if linear else _pool(encoder.model),
        "timm_proj": "linear" if linear else "none",
        "timm_proj_bias": has_bias(head),
        "timm_drop_path": encoder.options.get("drop_path_rate"),
        "image_size": encoder.image_size,
    }
    rules = same_names(_MODEL, "visual.trunk.", encoder.model)
    rules += clip.head("image", "visual.head.proj", bias=has_bias(head)) if linear else []
    return ForeignTower(settings, rules)


def _write_siglip(encoder: ImageEncoder, head: nn.Module) -> ForeignTower | None:
    if not isinstance(encoder, HuggingFaceImageEncoder) or not siglip.is_transformers_siglip(encoder):
        return None
    name = siglip.timm_name(encoder)
    if name is None:
        act = encoder.model.config.hidden_act
        raise NotHeld(
            f"open_clip has its image tower from timm, where none of SigLIP's has these sizes and the activation {act!r}"
        )
    if not isinstance(head, IdentityProjection):
        raise NotHeld(f"its image projection is a {type(head).__name__}")
    settings = {"timm_model_name": name, "timm_pool": "map", "timm_proj": "none", "image_size": encoder.image_size}
    before = siglip.image_rules(len(encoder.blocks()), _MODEL)
    return ForeignTower(settings, below(before, _MODEL, "visual.trunk."), before=before)


def _check_head(head: nn.Module) -> None:
    if not isinstance(head, LinearProjection | IdentityProjection):
        raise NotHeld(f"its image projection is a {type(head).__name__}")


def _resize_timm(visual: Any, name: str, size: int) -> None:
    if not hasattr(visual, "set_input_size"):
        raise InputError(f"timm's {name!r} takes images of {visual.image_size[0]} only: omit image_size")
    try:
        visual.set_input_size((size, size))
    except (AssertionError, ValueError, RuntimeError) as error:
        raise InputError(f"image_size {size} does not suit timm's {name!r}: {error}") from error


def _size_in_timm(name: str) -> int:
    found: Any = timm.get_pretrained_cfg(name)
    return int(found.input_size[-1])


def _pool(model: Any) -> str:
    """What timm calls a model's pooling."""
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return str(pool if isinstance(pool, str) else getattr(pool, "pool_type", ""))


def _is_same(trunk: nn.Module, spec: dict[str, Any]) -> bool:
    """Whether our encoder of that spec is the same module: open_clip may have changed its pooling after building it."""
    encoder = unallocated(spec)
    if encoder is None:
        return False
    same_pool = repr(getattr(encoder.model, "global_pool", None)) == repr(getattr(trunk, "global_pool", None))
    return same_pool and repr(encoder.model) == repr(trunk)
