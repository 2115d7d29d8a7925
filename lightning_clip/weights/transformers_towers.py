"""transformers' towers, in and out: each modality is read and written by two functions side by side.

CLIP's towers become the native ones, the towers of other families stay transformers' modules, built from their settings.
"""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer, tokenizers
from lightning_clip.encoders import (
    ClipTextTransformer,
    HuggingFaceImageEncoder,
    HuggingFaceTextEncoder,
    ImageEncoder,
    TextEncoder,
)
from lightning_clip.encoders.huggingface_towers import describe, set_family
from lightning_clip.encoders.padding import side_mapping
from lightning_clip.weights import clip
from lightning_clip.weights.positions import resized_grid, resized_row
from lightning_clip.weights.rules import same_names, to_ours
from lightning_clip.weights.shapes import clip_vit
from lightning_clip.weights.tokenizer_files import last_id
from lightning_clip.weights.tokens import end_token
from lightning_clip.weights.towers import ForeignTower, NotHeld, TowerWeights, under
from lightning_clip.weights.transformers_families import DUAL, FAMILIES
from lightning_clip.weights.transformers_inputs import room_of

__all__ = ["LEGACY_END", "changed_end", "read_image", "read_naflex", "read_text", "write_image", "write_text"]

log = logging.getLogger(__name__)

# In configurations of OpenAI's time this stands for the largest id, whatever the tokenizer says.
LEGACY_END = 2
_IMAGE, _TEXT = "image_encoder.model.", "text_encoder.model."
_POSITIONS = "embeddings.position_embedding.weight"
_DEFAULT_LENGTH = 77
_WHOLE = ("siglip", "siglip2")  # families whose texts are padded to the whole context, which is attended to


def read_image(model: Any, family: str, image_size: int | None, label: str) -> TowerWeights:
    """The image tower and head of a live model of transformers in our words.

    Args:
        model: with weights.
        family: its `model_type`, one of `FAMILIES`.
        image_size: side of the square images in pixels; None takes the tower's own.
        label: of the source, for messages.

    Raises:
        InputError: a size that the tower cannot take.
    """
    tower = model.vision_model
    config, weights = tower.config, tower.state_dict(prefix="vision_model.")
    head, head_weights = _read_head(model, "visual_projection", "image")
    size, patch = image_size or int(config.image_size), int(getattr(config, "patch_size", 1))
    if FAMILIES[family].clip_images and clip.TRANSFORMERS_VIT.holds(config.to_dict()):
        found = to_ours(clip.transformers_vit(config.num_hidden_layers), weights, label)
        found[clip.IMAGE_POSITIONS] = resized_grid(found[clip.IMAGE_POSITIONS], size, patch, class_tokens=1)
        sizes = {**clip.TRANSFORMERS_VIT.to_ours(config.to_dict()), "image_size": size}
        return TowerWeights(clip.timm_vit(**sizes), head, {**found, **head_weights})
    found = under("vision_model.", weights, _IMAGE)
    if size != config.image_size:
        if (key := f"{_IMAGE}{_POSITIONS}") not in found:
            raise InputError(f"{label} takes images of {config.image_size} only: omit image_size")
        patches = (int(config.image_size) // patch) ** 2
        found[key] = resized_grid(found[key], size, patch, class_tokens=len(found[key]) - patches)
        config.image_size = size
    spec = {"name": "hf", "pooling": "pooler", "config": _described(tower, family)}
    return TowerWeights(spec, head, {**found, **head_weights})


def read_naflex(
    model: Any, image_size: int | None, transform: dict[str, Any], label: str
) -> tuple[TowerWeights, dict[str, Any]]:
    """The image tower of SigLIP 2 with variable sizes, and its transform.

    Args:
        model: with weights.
        image_size: side of a square picture in pixels that has as many patches as a picture may have; None takes the
            processor's number.
        transform: as `read_transform` found it.
        label: of the source, for messages.

    Raises:
        InputError: a tower without a pooled output, a processor of another kind, or a size below one patch.
    """
    tower, patch = model.vision_model, int(model.vision_model.config.patch_size)
    if getattr(tower, "head", None) is None or transform["resize"] != "patches":
        raise InputError(f"{label} has no head, or a processor that makes no patches: only SigLIP 2's published form is read")
    most = transform["max_patches"] if image_size is None else (image_size // patch) ** 2
    in_range(f"{label}: image_size // {patch}", most, 1, whole=True)
    spec = {"name": "naflex", "config": _described(tower, "siglip2"), "max_patches": most}
    weights = under("", tower.state_dict(), _IMAGE)
    return TowerWeights(spec, {"name": "none"}, weights), {**transform, "max_patches": most}


def write_image(encoder: ImageEncoder, family: str) -> ForeignTower:
    """An image tower of ours as a family of transformers has it."""
    if (sizes := clip_vit(encoder)) is not None:
        named = {"model_type": "clip_vision_model"} if family == DUAL else {}
        return ForeignTower({**named, **clip.TRANSFORMERS_VIT.to_theirs(sizes)}, clip.transformers_vit(sizes["depth"]))
    assert isinstance(encoder, HuggingFaceImageEncoder)
    return ForeignTower(_settings(encoder.model), same_names(_IMAGE, "vision_model.", encoder.model))


def read_text(
    model: Any, family: str, tokenizer: dict[str, Any] | None, context_length: int | None, label: str
) -> tuple[TowerWeights, int]:
    """The text tower and head of a live model of transformers in our words, and the number of tokens that it takes.

    Args:
        model: with weights.
        family: its `model_type`, one of `FAMILIES`.
        tokenizer: mapping of ours; None if the user must give one.
        context_length: the most tokens; None takes the tower's own.
        label: of the source, for messages.

    Raises:
        InputError: a context_length that the tower cannot take.
    """
    config = model.text_model.config
    head, head_weights = _read_head(model, "text_projection", "text")
    if family not in _WHOLE and tokenizer is not None and tokenizers.build(tokenizer).padding_side == "left":
        log.warning(
            "The tokenizer of %s pads on the left, where transformers' features of a text change with the longest text of its "
            "batch. Here each text has the features that it has by itself.",
            label,
        )
    if family == "clip" and _is_clip_text(config) and _ends_like(tokenizer, config):
        length = context_length or int(config.max_position_embeddings)
        spec, weights = _read_clip_text(model.text_model, length, label)
    else:
        spec, weights, length = _read_other_text(model.text_model, family, tokenizer, context_length, label)
    return TowerWeights(spec, head, {**weights, **head_weights}), length


def write_text(encoder: TextEncoder, family: str, tokenizer: Tokenizer) -> ForeignTower:
    """A text tower of ours as a family of transformers has it.

    Raises:
        NotHeld: transformers would not find the end of a text.
    """
    if isinstance(encoder, ClipTextTransformer):
        if (end := end_token(tokenizer)) is None:
            raise NotHeld("its tokenizer does not end each text with one id, by which transformers would find the end")
        changed = changed_end(tokenizer)
        end = end if changed is None else changed
        ids = {"eos_token_id": end, "bos_token_id": end - 1, "pad_token_id": end}
        hidden = {"intermediate_size": 4 * encoder.width}
        settings = {**clip.TRANSFORMERS_TEXT.to_theirs(encoder.to_mapping()), **hidden, **ids}
        return ForeignTower(settings, clip.transformers_text(encoder.layers))
    assert isinstance(encoder, HuggingFaceTextEncoder)
    settings, rules = _settings(encoder.model), same_names(_TEXT, "text_model.", encoder.model)
    if family == "chinese_clip":  # it has no pooler, and needs none for the first token
        settings.pop("model_type", None)
        rules = [rule for rule in rules if not rule.ours.startswith(f"{_TEXT}pooler.")]
    return ForeignTower(settings, rules)


def changed_end(tokenizer: Tokenizer) -> int | None:
    """What the id that ends a text must become, since transformers takes `LEGACY_END` for another; None where it stays."""
    if isinstance(tokenizer, JsonTokenizer) and end_token(tokenizer) == LEGACY_END:
        return last_id(tokenizer)
    return None


def _is_clip_text(config: Any) -> bool:
    return clip.TRANSFORMERS_TEXT.holds(config.to_dict()) and config.intermediate_size == 4 * config.hidden_size


def _ends_like(tokenizer: dict[str, Any] | None, config: Any) -> bool:
    """Whether the tower reads its feature at the token with which the tokenizer ends a text."""
    end = None if tokenizer is None else end_token(tokenizer)
    return end is not None and end == (config.vocab_size - 1 if config.eos_token_id == LEGACY_END else config.eos_token_id)


def _read_clip_text(tower: Any, length: int, label: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    config = tower.config
    found = to_ours(clip.transformers_text(config.num_hidden_layers), tower.state_dict(prefix="text_model."), label)
    found[clip.TEXT_POSITIONS] = resized_row(found[clip.TEXT_POSITIONS], length)
    sizes = {**clip.TRANSFORMERS_TEXT.to_ours(config.to_dict()), "context_length": length}
    return {"name": "clip_text", **sizes}, found


def _read_other_text(
    tower: Any, family: str, tokenizer: dict[str, Any] | None, context_length: int | None, label: str
) -> tuple[dict[str, Any], dict[str, Tensor], int]:
    config, found = tower.config, under("", tower.state_dict(), _TEXT)
    key, room = f"{_TEXT}{_POSITIONS}", room_of(tower)
    if key in found:  # the families whose towers are as long as their texts
        length = context_length or room
        found[key] = resized_row(found[key], length)
        config.max_position_embeddings = length
    else:
        length = context_length or min(room, _DEFAULT_LENGTH if tokenizer is None else int(tokenizer["context_length"]))
        if length > room:
            raise InputError(f"context_length {length} exceeds what {label} takes, {room}: its positions cannot be extended")
    spec = {"name": "hf", "pooling": FAMILIES[family].pooling, "config": _described(tower, family)}
    if family in _WHOLE:
        spec["pad_id"] = config.pad_token_id if tokenizer is None else tokenizer["pad_id"]
        spec |= {} if tokenizer is None else side_mapping(tokenizers.build(tokenizer).padding_side)
    return spec, found, length


def _read_head(model: Any, name: str, tower: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    head = getattr(model, name, None)
    if head is None:
        return {"name": "none"}, {}
    bias = {"bias": True} if head.bias is not None else {}
    return {"name": "linear", **bias}, under("", head.state_dict(), f"{tower}_projection.")


def _described(tower: nn.Module, family: str) -> dict[str, Any]:
    if family != DUAL:
        set_family(tower, family)
    return describe(tower)


def _settings(model: Any) -> dict[str, Any]:
    """A tower's own part of its configuration."""
    settings = describe(model)
    inner: dict[str, Any] = next((settings[key] for key in ("text_config", "vision_config") if key in settings), settings)
    return {key: value for key, value in inner.items() if key != "add_pooling_layer"}
