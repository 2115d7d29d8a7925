"""Two-tower models of transformers: a hub name or folder arrives; transformers builds and reads it, `Pretrained` leaves.

CLIP's towers become the native ones, the towers of other families stay transformers' modules, built from their settings.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_clip.checkpoints.fit import groups
from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.encoders.huggingface_towers import describe
from lightning_clip.weights import layouts
from lightning_clip.weights.files import TRUST, unreachable
from lightning_clip.weights.positions import resized_grid, resized_row
from lightning_clip.weights.rules import to_ours
from lightning_clip.weights.source import Pretrained, Source
from lightning_clip.weights.tokens import end_token
from lightning_clip.weights.towers import Tower, assemble, timm_vit, under
from lightning_clip.weights.transformers_inputs import read_tokenizer, read_transform, room_of

__all__ = ["FAMILIES", "open_transformers"]

# Family -> how its text features are pooled: "pooler" is the text model's own output, "cls" the first token.
FAMILIES = {
    "clip": "pooler",
    "metaclip_2": "pooler",
    "siglip": "pooler",
    "chinese_clip": "cls",
    "altclip": "cls",
    "vision-text-dual-encoder": "pooler",
}
_ACTIVATIONS = {"quick_gelu": True, "gelu": False}
_CLIP_EPSILON = 1e-5
_LINEAR, _NONE = {"name": "linear"}, {"name": "none"}


def open_transformers(name: str, source: Source) -> Pretrained:
    """Opens a hub name or a folder; no code of a repository is run.

    Raises:
        InputError: no such model, no network, a family that is not known, or weights that do not fit their settings.
    """
    if name.startswith(("/", "~", ".")):  # no name on the hub
        name = str(existing_path(name, "folder"))
    label = f"hf:{name}"
    model, loading = _load(name, label, source.allow_pickle)
    _check(loading, label)
    family = model.config.model_type
    tokenizer, problem = read_tokenizer(name, model, label)
    image = _image_tower(model, family, source.image_size, label)
    text, length = _text_tower(model, family, tokenizer, source.context_length, label)
    if tokenizer is not None:
        tokenizer["context_length"] = length
    scale = {key: value for key in ("logit_scale", "logit_bias") if (value := getattr(model, key, None)) is not None}
    width = len(model.text_projection.weight) if hasattr(model, "text_projection") else model.text_model.config.projection_size
    found = assemble(
        label, (image, text), scale, embed_dim=int(width), tokenizer=tokenizer, transform=read_transform(name, label)
    )
    found.problem = problem
    return found


def _load(name: str, label: str, allow_pickle: bool) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoConfig, AutoModel

    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type in FAMILIES:
            options = {"trust_remote_code": False, "weights_only": not allow_pickle}
            # What does not fit is told by `_check`, in one line.
            options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
            with _quiet():
                model, loading = AutoModel.from_pretrained(name, config=config, **options)
            return model.float().eval(), loading
    except pickle.UnpicklingError as error:
        if allow_pickle:
            raise unreachable(label, error) from error
        raise InputError(
            f"the weights of {label} hold Python objects, and reading them may run code: if you trust their author, set {TRUST}"
        ) from error
    except Exception as error:  # of several libraries
        raise unreachable(label, error) from error
    if config.model_type == "siglip2":
        raise InputError(
            f"{label} is a SigLIP 2 of variable size (NaFlex), whose pictures keep their shape; here all have one shape: "
            "use the weights of a fixed size, such as hf:google/siglip2-base-patch16-224"
        )
    raise InputError(
        f"{label} is a {config.model_type!r} model, and only these families of transformers map exactly: "
        f"{nearest(config.model_type, FAMILIES)}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' table of weights that do not fit."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _check(loading: Mapping[str, Any], label: str) -> None:
    """Transformers fills what is missing with random numbers and only warns."""
    missing = sorted(key for key in loading["missing_keys"] if not key.endswith("position_ids"))
    unexpected = sorted(key for key in loading["unexpected_keys"] if not key.endswith("position_ids"))
    kinds = {"of another shape": sorted(key for key, *_ in loading["mismatched_keys"]), "missing": missing}
    kinds["unexpected"] = unexpected
    if parts := [f"{len(keys)} {kind}: {groups(keys)}" for kind, keys in kinds.items() if keys]:
        raise InputError(f"the weights of {label} do not fit its config.json: {'; '.join(parts)}. Is the folder complete?")


def _image_tower(model: Any, family: str, image_size: int | None, label: str) -> Tower:
    tower = model.vision_model
    config, weights = tower.config, tower.state_dict(prefix="vision_model.")
    size, patch = image_size or int(config.image_size), int(getattr(config, "patch_size", 1))
    head = _head(model, "visual_projection", "image")
    if family != "vision-text-dual-encoder" and "siglip" not in family and _is_clip(config):
        found = to_ours(layouts.transformers_vit(config.num_hidden_layers), weights, label)
        key = "image_encoder.model.pos_embed"
        found[key] = resized_grid(found[key], size, patch, class_tokens=1)
        sizes = {"width": config.hidden_size, "depth": config.num_hidden_layers, "heads": config.num_attention_heads}
        sizes |= {"image_size": size, "patch_size": patch, "hidden": config.intermediate_size}
        spec = timm_vit(quick_gelu=_ACTIVATIONS[config.hidden_act], **sizes)
        return Tower(spec, head[0], {**found, **head[1]})
    found = under("vision_model.", weights, "image_encoder.model.")
    if size != config.image_size:
        key = "image_encoder.model.embeddings.position_embedding.weight"
        if key not in found:
            raise InputError(f"{label} takes images of {config.image_size} only: leave image_size out")
        patches = (int(config.image_size) // patch) ** 2
        found[key] = resized_grid(found[key], size, patch, class_tokens=len(found[key]) - patches)
        config.image_size = size
    spec = {"name": "hf", "pooling": "pooler", "config": _described(tower, family)}
    return Tower(spec, head[0], {**found, **head[1]})


def _text_tower(
    model: Any, family: str, tokenizer: dict[str, Any] | None, context_length: int | None, label: str
) -> tuple[Tower, int]:
    """The tower, and the number of tokens that it takes."""
    tower = model.text_model
    config, weights = tower.config, tower.state_dict(prefix="text_model.")
    head = _head(model, "text_projection", "text")
    if family == "clip" and _is_clip(config) and config.intermediate_size == 4 * config.hidden_size and tokenizer is not None:
        end = end_token(tokenizer)
        if end is not None and end == (config.eos_token_id if config.eos_token_id != 2 else config.vocab_size - 1):
            length = context_length or int(config.max_position_embeddings)
            found = to_ours(layouts.transformers_text(config.num_hidden_layers), weights, label)
            key = "text_encoder.positional_embedding"
            found[key] = resized_row(found[key], length)
            sizes = {"width": config.hidden_size, "layers": config.num_hidden_layers, "heads": config.num_attention_heads}
            sizes |= {"vocab_size": config.vocab_size, "context_length": length}
            spec = {"name": "clip_text", **sizes, "quick_gelu": _ACTIVATIONS[config.hidden_act]}
            return Tower(spec, head[0], {**found, **head[1]}), length
    found = under("text_model.", weights, "text_encoder.model.")
    key, room = "text_encoder.model.embeddings.position_embedding.weight", room_of(tower)
    if key in found:  # the families whose towers are as long as their texts
        length = context_length or room
        found[key] = resized_row(found[key], length)
        config.max_position_embeddings = length
    else:
        length = context_length or min(room, 77 if tokenizer is None else int(tokenizer["context_length"]))
        if length > room:
            raise InputError(f"context_length {length} exceeds what {label} takes, {room}: its positions cannot be extended")
    spec = {"name": "hf", "pooling": FAMILIES[family], "config": _described(tower, family)}
    if family == "siglip":
        spec["pad_id"] = config.pad_token_id if tokenizer is None else tokenizer["pad_id"]
    return Tower(spec, head[0], {**found, **head[1]}), length


def _described(tower: nn.Module, family: str) -> dict[str, Any]:
    if family != "vision-text-dual-encoder":
        tower.family = family  # type: ignore[assignment]
    return describe(tower)


def _head(model: Any, name: str, tower: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    head = getattr(model, name, None)
    if head is None:
        return dict(_NONE), {}
    bias = {"bias": True} if head.bias is not None else {}
    return {**_LINEAR, **bias}, under("", head.state_dict(), f"{tower}_projection.")


def _is_clip(config: Any) -> bool:
    """Whether the native towers hold a tower of these settings exactly."""
    channels = getattr(config, "num_channels", 3)
    return config.hidden_act in _ACTIVATIONS and config.layer_norm_eps == _CLIP_EPSILON and channels == 3
