"""Towers of transformers by configuration: plain mappings, and modules with random weights built from them.

Two-tower families (CLIP, SigLIP, ...) have no public class for each of their towers. Their mapping names the family and holds
the tower's own part: {"model_type": "siglip", "text_config": {...}}.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lightning_clip.core.errors import InputError

__all__ = [
    "build",
    "checkpoint_layers",
    "describe",
    "encoder_of",
    "family_of",
    "load",
    "longest_list",
    "plain",
    "set_family",
    "whole_config_of",
]


def load(path: str | None, side: str, pretrained: bool, config: Mapping[str, Any] | None) -> Any:
    """A tower of transformers.

    Args:
        path: hub name or folder, or None with `config`.
        side: "text" or "image", for messages.
        pretrained: whether `path`'s weights are loaded.
        config: what `describe` gave, instead of `path`.

    Raises:
        InputError: both or neither of path and config, or no such model.
    """
    from transformers import AutoConfig, AutoModel  # here: importing transformers' models is slow

    if (path is None) == (config is None):
        raise InputError(f"give a Hugging Face {side} encoder either a path (name or folder) or a config, not both or neither")
    try:
        if config is not None:
            return build(config)
        assert path is not None
        settings = AutoConfig.from_pretrained(path, trust_remote_code=False)
        if not pretrained:
            return AutoModel.from_config(settings, trust_remote_code=False)  # type: ignore[no-untyped-call]
        return AutoModel.from_pretrained(path, config=settings, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"no Hugging Face {side} model {path or dict(config or {})!r}: {reason} Give a hub name (needs the network once) "
            "or a folder written by save_pretrained."
        ) from error


def build(config: Mapping[str, Any]) -> Any:
    """The module behind a mapping that `describe` gave, with random weights."""
    from transformers import AutoConfig, AutoModel

    settings = dict(config)
    if settings.pop("encoder_only", False):
        whole = AutoModel.from_config(AutoConfig.for_model(**settings))  # type: ignore[no-untyped-call]
        return encoder_of(whole)
    options = {} if settings.pop("add_pooling_layer", True) else {"add_pooling_layer": False}
    family = settings.pop("model_type")
    part = next((key for key in ("text_config", "vision_config") if key in settings), None)
    if part is None:
        return AutoModel.from_config(AutoConfig.for_model(family, **settings), **options)  # type: ignore[no-untyped-call]
    if family == "tipsv2":  # whose towers must have one width
        other = {"text_config": "vision_config", "vision_config": "text_config"}[part]
        settings[other] = {key: settings[part][key] for key in ("hidden_size", "num_attention_heads")}
    with torch.device("meta"):  # only to see which class the family has for this tower: nothing is allocated
        whole = AutoModel.from_config(AutoConfig.for_model(family, **settings))  # type: ignore[no-untyped-call]
    tower = getattr(whole, part.replace("config", "model"))
    accepted = inspect.signature(type(tower)).parameters
    if "add_pooling_layer" in accepted:
        options = {"add_pooling_layer": getattr(tower, "pooler", None) is not None}
    built = type(tower)(tower.config, **options)
    set_family(built, family)
    return built


def set_family(tower: Any, family: str) -> None:
    """Notes on a tower of transformers which two-tower family it was taken from; `describe` says it again."""
    tower.family = family


def family_of(tower: Any) -> str | None:
    """The two-tower family that a tower of transformers was taken from; None for a model of its own."""
    family: str | None = getattr(tower, "family", None)
    return family


def whole_config_of(tower: Any) -> Any:
    """The configuration of the encoder and decoder that an encoder was taken from; None for any other tower."""
    return getattr(tower, "whole_config", None)


def encoder_of(model: Any) -> Any:
    """The encoder of a model that also has a decoder (mT5's, NLLB's), which knows the settings of the whole."""
    encoder = model.encoder
    encoder.whole_config = model.config
    return encoder


def longest_list(model: nn.Module) -> list[nn.Module]:
    """The layers of the longest list in a model: its blocks, whatever it calls them."""
    lists = [list(layers) for layers in model.modules() if isinstance(layers, nn.ModuleList)]
    return max(lists, key=len, default=[])


def checkpoint_layers(model: Any, tower: str) -> None:
    """From now on the model's layers keep no activations, by transformers' own checkpointing.

    Args:
        model: of transformers.
        tower: "image" or "text", for messages.

    Raises:
        InputError: the model has no checkpointing.
    """
    renamed = "activation_checkpointing_enable"  # in transformers 5
    enable = getattr(model, renamed, None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise InputError(f"{error} Omit {tower!r} from execution.checkpoint.") from error


def describe(model: Any) -> dict[str, Any]:
    """A plain mapping from which `build` makes a module of the same architecture."""
    if (whole := whole_config_of(model)) is not None:
        return {**plain(whole.to_dict()), "vocab_size": model.config.vocab_size, "encoder_only": True}
    settings: dict[str, Any] = plain(model.config.to_dict())
    if family := family_of(model):
        side = "text_config" if hasattr(model.config, "vocab_size") else "vision_config"
        return {"model_type": family, side: settings}
    if getattr(model, "pooler", True) is None:
        settings["add_pooling_layer"] = False
    return settings


def plain(value: Any) -> Any:
    """Only what a checkpoint read with weights_only=True may hold."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
