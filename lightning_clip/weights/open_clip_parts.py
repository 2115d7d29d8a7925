"""What both kinds of open_clip's towers share: settings that differ from the defaults, heads, and the wrapped form."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from lightning_clip.weights.towers import under

__all__ = ["LINEAR", "NONE", "TOKENIZER_SETTINGS", "complete", "is_plain", "without_head", "wrapped"]

LINEAR, NONE = {"name": "linear"}, {"name": "none"}
# Settings of a text tower that say nothing of its layers.
TOKENIZER_SETTINGS = ("hf_tokenizer_name", "tokenizer_mode", "tokenizer_kwargs", "hf_model_pretrained")


def complete(cls: type, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the defaults of open_clip's class of settings for what they do not say."""
    return {**{entry.name: entry.default for entry in fields(cls)}, **settings}


def is_plain(cls: type, settings: dict[str, Any], known: set[str]) -> bool:
    """Whether all settings but the known ones are at their defaults in open_clip's class of settings."""
    defaults = complete(cls, {})
    return all(key in known or value == defaults.get(key) for key, value in settings.items())


def without_head(weights: dict[str, Tensor], key: str, tower: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Takes the last matrix off a tower: it is our projection."""
    rest = {name: value for name, value in weights.items() if name != key and not name.startswith(f"{key}.")}
    if key in weights:
        return LINEAR, {**rest, f"{tower}_projection.weight": weights[key].T.contiguous()}
    if f"{key}.weight" not in weights:
        return NONE, rest
    bias = f"{key}.bias" in weights
    return {"name": "linear", "bias": bias}, {**rest, **under(f"{key}.", weights, f"{tower}_projection.")}


def wrapped(config: dict[str, Any], part: str, **sizes: int) -> dict[str, Any]:
    """The spec of a tower that stays open_clip's, with other sizes."""
    settings = {key: value for key, value in {**config[part], **sizes}.items() if not key.startswith(("hf_tok", "tokenizer_"))}
    return {
        "name": "open_clip",
        "embed_dim": config["embed_dim"],
        "config": settings,
        "quick_gelu": bool(config.get("quick_gelu")),
    }
