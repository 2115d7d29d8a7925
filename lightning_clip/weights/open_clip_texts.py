"""open_clip's text towers, in and out: each kind is read and written by two functions side by side."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import Tokenizer, tokenizers
from lightning_clip.encoders import ClipTextTransformer, HuggingFaceTextEncoder, OpenClipTextEncoder, TextEncoder
from lightning_clip.encoders.huggingface_towers import describe
from lightning_clip.encoders.padding import side_mapping
from lightning_clip.encoders.projection import IdentityProjection, LinearProjection, MlpProjection
from lightning_clip.weights import clip, siglip
from lightning_clip.weights.open_clip_parts import LINEAR, NONE, TOKENIZER_SETTINGS, complete, is_plain, without_head, wrapped
from lightning_clip.weights.positions import resized_row
from lightning_clip.weights.rules import Rule, below, same_names, to_ours
from lightning_clip.weights.shapes import has_bias
from lightning_clip.weights.tokens import end_token, is_clip
from lightning_clip.weights.towers import ForeignTower, NotHeld, TowerWeights, under

__all__ = ["TEXT_FOLDER", "read_text", "text_config", "write_text"]

# Settings that `ClipTextTransformer` has; every other one must be at its default.
_PLAIN = {*clip.OPEN_CLIP_TEXT.names, "output_tokens", "pool_type", "eos_id", "pad_id", *TOKENIZER_SETTINGS}
# Our pooling of a Hugging Face tower -> open_clip's.
_POOLERS = {"mean": "mean_pooler", "max": "max_pooler", "cls": "cls_last_hidden_state_pooler", "pooler": "cls_pooler"}
_OUR_POOLINGS = {theirs: ours for ours, theirs in _POOLERS.items()}
_BERTS = "chinese_clip"  # the family whose text tower is a BERT under another name
_MODEL = "text_encoder.model."
TEXT_FOLDER = "text_config"  # holds the configuration of a Hugging Face tower


def read_text(
    model: Any, config: dict[str, Any], tokenizer: dict[str, Any] | None, context_length: int | None
) -> tuple[TowerWeights, int]:
    """The text tower of a live model of open_clip's in our words, and the number of tokens that it takes.

    Args:
        model: with weights.
        config: its settings.
        tokenizer: mapping of ours; None if the user must give one.
        context_length: the most tokens; None takes the tower's own.

    Raises:
        InputError: a context_length that the tower cannot take, or padding on the left that it feels.
    """
    from open_clip.model import CLIPTextCfg

    settings = complete(CLIPTextCfg, config["text_cfg"])
    length = context_length or int(settings["context_length"])
    if settings["hf_model_name"]:
        _check_side(model.text.config, tokenizer)
        return _read_hugging_face(model.text), length
    weights = _text_weights(model)
    plain = is_plain(CLIPTextCfg, config["text_cfg"], _PLAIN) and not config.get("multimodal_cfg")
    if plain and _reads_end(settings, tokenizer):
        sizes = {**clip.OPEN_CLIP_TEXT.to_ours(settings), "context_length": length}
        return _read_clip(weights, {**sizes, "quick_gelu": bool(config.get("quick_gelu"))}), length
    if context_length is not None and settings["embed_cls"]:
        raise InputError("context_length cannot be changed for a text tower with a class token after the text: omit it")
    # Without a tokenizer nothing tells how texts are padded: that of the user's will.
    padding: dict[str, Any] = {"pad_id": None if tokenizer is None else tokenizer.get("pad_id", 0)}
    padding |= {} if tokenizer is None else side_mapping(tokenizers.build(tokenizer).padding_side)
    spec = {**wrapped(config, "text_cfg", context_length=length), **padding}
    return _read_wrapped(weights, spec, context_length), length


def write_text(encoder: TextEncoder, head: nn.Module, tokenizer: Tokenizer) -> ForeignTower:
    """A text tower of ours as open_clip has it.

    Args:
        encoder: the tower, with weights.
        head: its projection.
        tokenizer: of its texts.

    Raises:
        NotHeld: open_clip has none like it.
    """
    if not isinstance(head, LinearProjection | IdentityProjection | MlpProjection):
        raise NotHeld(f"its text projection is a {type(head).__name__}")
    for write in (_write_clip, _write_wrapped, _write_siglip, _write_hugging_face):
        if (found := write(encoder, head, tokenizer)) is not None:
            return found
    raise NotHeld(f"its text tower is a {type(encoder).__name__}")


def _check_side(config: Any, tokenizer: dict[str, Any] | None) -> None:
    """open_clip masks the padding of these towers, but behind padding on the left the texts have other positions."""
    if tokenizer is None or config.is_encoder_decoder:  # T5's positions are relative
        return
    if tokenizers.build(tokenizer).padding_side == "left":
        raise InputError(
            f"the tokenizer pads on the left, where texts of a {config.model_type!r} tower of open_clip get other positions, "
            'which is not supported: if it was trained with padding on the right, set "padding_side": "right" in '
            "tokenizer_config.json"
        )


def _read_clip(weights: dict[str, Tensor], sizes: dict[str, Any]) -> TowerWeights:
    rules = [*clip.open_clip_text(sizes["layers"], "text."), *clip.head("text", "text.text_projection", transposed=True)]
    found, key = to_ours(rules, weights, "open_clip"), clip.TEXT_POSITIONS
    found[key] = resized_row(found[key], sizes["context_length"])
    return TowerWeights({"name": "clip_text", **sizes}, LINEAR, found)


def _write_clip(encoder: TextEncoder, head: nn.Module, tokenizer: Tokenizer) -> ForeignTower | None:
    if not isinstance(encoder, ClipTextTransformer):
        return None
    if not isinstance(head, LinearProjection) or has_bias(head):
        raise NotHeld("its text projection is no plain matrix")
    if (end := end_token(tokenizer)) is None:
        raise NotHeld("its tokenizer does not end each text with one id, by which open_clip would find the end")
    last = {} if is_clip(tokenizer) else {"pool_type": "eos", "eos_id": end}
    rules = [*clip.open_clip_text(encoder.layers), *clip.head("text", "text_projection", transposed=True)]
    return ForeignTower({**clip.OPEN_CLIP_TEXT.to_theirs(encoder.to_mapping()), **last}, rules, encoder.quick_gelu)


def _reads_end(settings: dict[str, Any], tokenizer: dict[str, Any] | None) -> bool:
    """Whether the tower reads its feature at the last token of the text, as `ClipTextTransformer` does."""
    end = None if tokenizer is None else end_token(tokenizer)
    last = {"argmax": settings["vocab_size"] - 1, "eos": settings["eos_id"]}.get(settings["pool_type"])
    return end is not None and end == last


def _read_wrapped(weights: dict[str, Tensor], spec: dict[str, Any], context_length: int | None) -> TowerWeights:
    found, key = under("text.", weights, _MODEL), f"{_MODEL}positional_embedding"
    if context_length is not None:
        found[key] = resized_row(found[key], context_length)
    head, found = without_head(found, f"{_MODEL}text_projection", "text")
    return TowerWeights(spec, head, found)


def _write_wrapped(encoder: TextEncoder, head: nn.Module, tokenizer: Tokenizer) -> ForeignTower | None:
    if not isinstance(encoder, OpenClipTextEncoder):
        return None
    if isinstance(head, MlpProjection):
        raise NotHeld(f"its text projection is a {type(head).__name__}")
    linear, bias = isinstance(head, LinearProjection), has_bias(head)
    rules = same_names(_MODEL, "text.", encoder.model)
    rules += clip.head("text", "text.text_projection", bias=bias, transposed=not bias) if linear else []
    settings = {**encoder.config, "proj_bias": bias, "output_tokens": False, **({} if linear else {"proj_type": "none"})}
    return ForeignTower(settings, rules, encoder.quick_gelu, custom=True)


def _write_siglip(encoder: TextEncoder, head: nn.Module, tokenizer: Tokenizer) -> ForeignTower | None:
    if not isinstance(encoder, HuggingFaceTextEncoder) or not siglip.is_transformers_siglip(encoder):
        return None
    settings = siglip.open_clip_text_settings(encoder)
    if settings is None:
        raise NotHeld(f"open_clip has no text tower with the activation {encoder.model.config.hidden_act!r}")
    if not isinstance(head, IdentityProjection):
        raise NotHeld(f"its text projection is a {type(head).__name__}")
    before = siglip.text_rules(len(encoder.blocks()), _MODEL)
    rules = [*below(before, _MODEL, "text."), *clip.head("text", "text.text_projection", bias=True)]
    return ForeignTower(settings, rules, custom=True, before=before)


def _read_hugging_face(text: Any) -> TowerWeights:
    pooling = _OUR_POOLINGS[re.sub(r"(?<!^)(?=[A-Z])", "_", type(text.pooler).__name__).lower()]
    if pooling == "pooler" and getattr(text.transformer, "pooler", None) is None:
        pooling = "cls"
    if text.config.is_encoder_decoder:  # open_clip took the encoder out of it
        text.transformer.whole_config = text.config
    spec = {"name": "hf", "pooling": pooling, "config": describe(text.transformer)}
    weights = under("", text.transformer.state_dict(), _MODEL)
    if isinstance(text.proj, nn.Identity):
        return TowerWeights(spec, NONE, weights)
    weights |= under("", text.proj.state_dict(), "text_projection.")
    if isinstance(text.proj, nn.Linear):
        return TowerWeights(spec, LINEAR, weights)
    mlp = {"name": "mlp", "hidden_dim": text.proj[0].out_features, "activation": "gelu", "bias": False}
    return TowerWeights(spec, mlp, weights)


def _write_hugging_face(encoder: TextEncoder, head: nn.Module, tokenizer: Tokenizer) -> ForeignTower | None:
    from open_clip.hf_configs import arch_dict

    if not isinstance(encoder, HuggingFaceTextEncoder):
        return None
    config = text_config(encoder)
    if encoder.pooling not in _POOLERS or config.model_type not in arch_dict or encoder.family not in (None, _BERTS):
        raise NotHeld(f"open_clip has no {config.model_type!r} text tower with pooling {encoder.pooling!r}")
    if tokenizer.pad_id != config.pad_token_id:
        raise NotHeld(f"open_clip takes id {config.pad_token_id} for padding, and the tokenizer pads with {tokenizer.pad_id}")
    rules = same_names(_MODEL, "text.transformer.", encoder.model)
    if encoder.pooling != "pooler":
        rules = [rule for rule in rules if not rule.ours.startswith(f"{_MODEL}pooler.")]
    projection, head_rules = _hugging_face_head(head)
    settings = {"hf_model_name": TEXT_FOLDER, "hf_model_pretrained": False, "hf_proj_type": projection}
    settings |= {"hf_pooler_type": _POOLERS[encoder.pooling], "context_length": tokenizer.context_length}
    return ForeignTower(settings, rules + head_rules, custom=True)


def _hugging_face_head(head: nn.Module) -> tuple[str | None, list[Rule]]:
    """open_clip's word for the projection of a Hugging Face tower, and the names of its weights."""
    if isinstance(head, IdentityProjection):
        return None, []
    if isinstance(head, LinearProjection) and not has_bias(head):
        return "linear", clip.head("text", "text.proj")
    if isinstance(head, MlpProjection):
        first, activation, last = head
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        middle = (first.in_features + last.out_features) // 2
        if isinstance(activation, nn.GELU) and first.bias is None and first.out_features == middle:
            return "mlp", [Rule(f"text_projection.{n}.weight", (f"text.proj.{n}.weight",)) for n in (0, 2)]
    raise NotHeld("its text projection is none of open_clip's for Hugging Face towers")


def text_config(encoder: HuggingFaceTextEncoder) -> Any:
    """The configuration from which open_clip builds a Hugging Face tower; Chinese-CLIP's is BERT under another name."""
    config: Any = encoder.model.config
    if (whole := encoder.whole_config) is not None:  # from which open_clip takes the encoder
        whole.vocab_size = config.vocab_size
        return whole
    if encoder.family != _BERTS:
        return config
    from transformers import BertConfig

    known = BertConfig().to_dict()
    return BertConfig(**{key: value for key, value in config.to_dict().items() if key in known and key != "model_type"})


def _text_weights(model: Any) -> dict[str, Tensor]:
    """Under the prefix "text.", which older models lack."""
    weights: dict[str, Tensor] = model.state_dict()
    if hasattr(model, "positional_embedding"):
        return {f"text.{key}": value for key, value in weights.items() if not key.startswith(("visual.", "logit_"))}
    return {key: value for key, value in weights.items() if key.startswith("text.")}
