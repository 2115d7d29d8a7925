"""Putting a `ClipModel` together from what a user named, and naming what it was made of, for checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.encoders import TextEncoder, image_encoders, text_encoders
from lightning_clip.losses import ContrastiveLoss
from lightning_clip.model.clip import CLIP_MEAN, CLIP_STD, ClipModel

__all__ = ["build_model", "default_tokenizer", "plain_settings", "plain_spec"]


def build_model(
    image_encoder: Any,
    text_encoder: Any,
    *,
    embed_dim: int,
    projection: Any,
    loss: ContrastiveLoss,
    tokenizer: Tokenizer,
    transform: ImageTransformSettings,
) -> ClipModel:
    """The model with the loss' temperature and the transform's normalisation.

    Raises:
        InputError: an unknown name or setting, or a tokenizer that the text encoder cannot read.
    """
    texts = text_encoders.build(text_encoder, vocab_size=tokenizer.vocab_size, context_length=tokenizer.context_length)
    _check_tokenizer(tokenizer, texts)
    model = ClipModel(
        image_encoders.build(image_encoder),
        texts,
        embed_dim=embed_dim,
        projection=projection,
        initial_scale=loss.initial_scale,
        initial_bias=loss.initial_bias,
        mean=transform.mean or CLIP_MEAN,
        std=transform.std or CLIP_STD,
    )
    model.logit_scale.requires_grad_(loss.learn_scale)
    return model


def default_tokenizer(text_encoder: Any) -> str:
    """An `hf:` tower brings its own tokenizer, everything else speaks CLIP's."""
    name = text_encoder.get("name", "") if isinstance(text_encoder, Mapping) else text_encoder
    if isinstance(name, str) and name.startswith("hf:"):
        return name
    path = text_encoder.get("path") if isinstance(text_encoder, Mapping) and name == "hf" else None
    return f"hf:{path}" if path else "clip"


def plain_spec(spec: Any) -> Any:
    """A name or mapping as it is; an instance by its class, to be passed again."""
    return dict(spec) if isinstance(spec, Mapping) else spec if isinstance(spec, str) else image_encoders.describe(spec)


def plain_settings(settings: Any) -> dict[str, Any]:
    """A settings object as a mapping of plain values."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(settings).items()}


def _check_tokenizer(tokenizer: Tokenizer, text_encoder: TextEncoder) -> None:
    known = getattr(text_encoder, "vocab_size", None)
    if known is not None and tokenizer.vocab_size > known:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} ids but the text encoder embeds {known}: "
            f"set text_encoder.vocab_size to {tokenizer.vocab_size} or give the encoder's own tokenizer"
        )
    if tokenizer.context_length > text_encoder.context_length:
        raise InputError(
            f"the tokenizer's context_length {tokenizer.context_length} exceeds the text encoder's "
            f"{text_encoder.context_length}: set tokenizer.context_length to at most that"
        )
