"""How open_clip prepares texts and pictures, in and out: its tokenizers and settings of preprocessing beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.data.tokenizers import Tokenizer, from_transformers
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD
from lightning_clip.weights.tokens import is_clip

__all__ = ["read_tokenizer", "read_transform", "write_tokenizer_settings", "write_transform"]

# Our way to a square -> open_clip's, in which two of ours are one: the first of them is read.
_RESIZES = {"crop": "shortest", "floor_crop": "shortest", "pad": "longest", "squash": "squash"}
_OUR_RESIZES = {theirs: ours for ours, theirs in reversed(_RESIZES.items())}
_CLEANING = "_clean_"  # before the names of open_clip's functions


def read_tokenizer(live: Any, label: str) -> dict[str, Any]:
    """open_clip's tokenizer as a mapping of ours with the same ids.

    Raises:
        InputError: one that treats captions or ids in a way that ours cannot.
    """
    length = int(live.context_length)
    if not hasattr(live, "tokenizer"):
        if live.clean_fn.__name__ != f"{_CLEANING}lower" or live.reduction_fn is not None:
            raise InputError(f"{label} cleans or shortens captions in a way that is not supported: pass a tokenizer of yours")
        return {"name": "clip", "context_length": length}
    if getattr(live, "tokenizer_mode", "") or getattr(live, "strip_sep_token", False):
        raise InputError(f"{label} changes the ids of its tokenizer in a way that is not supported: pass a tokenizer of yours")
    clean = getattr(live, "clean_fn", None)
    cleaning = clean.__name__.removeprefix(_CLEANING) if clean else "canonicalize"  # the latter in SigLipTokenizer
    return from_transformers(live.tokenizer, label, length, clean=cleaning).to_mapping()


def write_tokenizer_settings(tokenizer: Tokenizer) -> dict[str, Any]:
    """What open_clip's `text_cfg` says of a tokenizer whose files lie beside it; nothing of CLIP's own, which it carries."""
    own: dict[str, Any] = {} if is_clip(tokenizer) else {"hf_tokenizer_name": "."}
    clean = tokenizer.to_mapping().get("clean")
    return {**own, "tokenizer_kwargs": {"clean": clean}} if clean else own


def read_transform(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Our transform's settings from open_clip's `preprocess_cfg`.

    Raises:
        InputError: a resize_mode that is not known.
    """
    interpolation = settings.get("interpolation", "bicubic").replace("random", "bicubic")
    mode = settings.get("resize_mode", "shortest")
    if mode not in _OUR_RESIZES:
        raise InputError(f"unknown resize_mode {mode!r} in open_clip's preprocessing: {nearest(mode, _OUR_RESIZES)}")
    resize = _OUR_RESIZES[mode]
    borders = {"fill": int(settings.get("fill_color", 0))} if resize == "pad" else {}
    colours = {"mean": list(settings["mean"]), "std": list(settings["std"])}
    return {"resize": resize, "interpolation": interpolation, **borders, **colours}


def write_transform(settings: ImageTransformSettings, image_size: int) -> dict[str, Any]:
    """open_clip's `preprocess_cfg` from our transform's settings, for square images of `image_size` pixels."""
    borders = {"fill_color": settings.fill} if settings.resize == "pad" else {}
    return {
        "size": [image_size, image_size],
        "mode": "RGB",
        "mean": list(settings.mean or CLIP_MEAN),
        "std": list(settings.std or CLIP_STD),
        "interpolation": settings.interpolation,
        "resize_mode": _RESIZES[settings.resize],
        **borders,
    }
