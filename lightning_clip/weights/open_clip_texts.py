"""The text tower of an open_clip model: the live model and its settings arrive, a tower of ours leaves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.huggingface_towers import describe
from lightning_clip.weights import layouts
from lightning_clip.weights.open_clip_parts import LINEAR, NONE, is_plain, without_head, wrapped
from lightning_clip.weights.positions import resized_row
from lightning_clip.weights.rules import to_ours
from lightning_clip.weights.tokens import end_token
from lightning_clip.weights.towers import Tower, under

__all__ = ["text_tower"]

# Settings that `ClipTextTransformer` has; every other one must be at its default.
_PLAIN = {"context_length", "vocab_size", "width", "heads", "layers", "output_tokens", "pool_type", "eos_id", "pad_id"}
_PLAIN |= {"hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_pretrained"}
_POOLERS = {"MeanPooler": "mean", "MaxPooler": "max", "ClsPooler": "pooler", "ClsLastHiddenStatePooler": "cls"}
_MODEL = "text_encoder.model."


def text_tower(
    model: Any, config: dict[str, Any], tokenizer: dict[str, Any] | None, context_length: int | None
) -> tuple[Tower, int]:
    """The text tower of a live model whose settings are `config`, and the number of tokens that it takes."""
    from open_clip.model import CLIPTextCfg

    settings = config["text_cfg"]
    if settings.get("hf_model_name"):
        return _hugging_face(model.text), context_length or int(settings.get("context_length", 77))
    weights = _text_weights(model)
    length = context_length or int(settings.get("context_length", 77))
    if is_plain(CLIPTextCfg, settings, _PLAIN) and _reads_end(settings, tokenizer) and not config.get("multimodal_cfg"):
        depth = settings.get("layers", 12)
        rules = [*layouts.open_clip_text(depth, "text."), *layouts.head("text", "text.text_projection", transposed=True)]
        found = to_ours(rules, weights, "open_clip")
        key = "text_encoder.positional_embedding"
        found[key] = resized_row(found[key], length)
        sizes = {"width": settings.get("width", 512), "layers": depth, "heads": settings.get("heads", 8)}
        sizes |= {"vocab_size": settings.get("vocab_size", 49408), "context_length": length}
        return Tower({"name": "clip_text", **sizes, "quick_gelu": bool(config.get("quick_gelu"))}, LINEAR, found), length
    found = under("text.", weights, _MODEL)
    key = f"{_MODEL}positional_embedding"
    if context_length is not None:
        if settings.get("embed_cls"):
            raise InputError(
                "context_length cannot be changed for a text tower with a class token after the text: leave it out"
            )
        found[key] = resized_row(found[key], length)
    head, found = without_head(found, f"{_MODEL}text_projection", "text")
    # Without a tokenizer nothing tells how texts are padded: that of the user's will.
    padding = {"pad_id": None if tokenizer is None else tokenizer.get("pad_id", 0)}
    spec = {**wrapped(config, "text_cfg", context_length=length), **padding}
    return Tower(spec, head, found), length


def _hugging_face(text: Any) -> Tower:
    pooling = _POOLERS[type(text.pooler).__name__]
    if pooling == "pooler" and getattr(text.transformer, "pooler", None) is None:
        pooling = "cls"
    if text.config.is_encoder_decoder:  # open_clip took the encoder out of it
        text.transformer.whole_config = text.config
    spec = {"name": "hf", "pooling": pooling, "config": describe(text.transformer)}
    weights = under("", text.transformer.state_dict(), _MODEL)
    if isinstance(text.proj, nn.Identity):
        return Tower(spec, NONE, weights)
    weights |= under("", text.proj.state_dict(), "text_projection.")
    if isinstance(text.proj, nn.Linear):
        return Tower(spec, LINEAR, weights)
    return Tower(spec, {"name": "mlp", "hidden_dim": text.proj[0].out_features, "activation": "gelu", "bias": False}, weights)


def _text_weights(model: Any) -> dict[str, Tensor]:
    """Under the prefix "text.", which older models lack."""
    weights: dict[str, Tensor] = model.state_dict()
    if hasattr(model, "positional_embedding"):
        return {f"text.{key}": value for key, value in weights.items() if not key.startswith(("visual.", "logit_"))}
    return {key: value for key, value in weights.items() if key.startswith("text.")}


def _reads_end(settings: dict[str, Any], tokenizer: dict[str, Any] | None) -> bool:
    """Whether the tower reads its feature at the last token of the text, as `ClipTextTransformer` does."""
    pool, end = settings.get("pool_type", "argmax"), None if tokenizer is None else end_token(tokenizer)
    last = {"argmax": settings.get("vocab_size", 49408) - 1, "eos": settings.get("eos_id", 2)}.get(pool)
    return end is not None and end == last
