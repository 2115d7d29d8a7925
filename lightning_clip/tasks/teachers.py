"""Live teachers: what a user named arrives, models that encode leave, or one line on why they cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.models import open_model
from lightning_clip.module.clip_module import ClipModule

__all__ = ["STORED", "open_teacher", "sources_of", "width_of"]

STORED = "stored"
_STORED_FORM = "{'source': 'stored', 'weight': [2.0, 1.0]}"
LIVE = "live object"  # as `plain_spec` notes one in a checkpoint


def sources_of(given: Any) -> tuple[Any, list[float]]:
    """Sources and their weights, from one or several of either; those of stored teachers are empty where all count alike.

    Raises:
        InputError: no teacher, an unknown key, or a weight that is not above 0.
    """
    if given == STORED or (isinstance(given, Mapping) and given.get("source") == STORED):
        return STORED, [] if given == STORED else _stored_weights(given)
    several = list(given) if isinstance(given, list | tuple) else [given]
    if not several:
        raise InputError("teachers is empty: give at least one, or 'stored' for features in the shards")
    sources, weights = [], []
    for entry in several:
        settings = dict(entry) if isinstance(entry, Mapping) and LIVE not in entry else {"source": entry}
        unknown = set(settings) - {"source", "weight"}
        if unknown or "source" not in settings:
            raise InputError(f"teacher {settings!r} must have 'source' and may have 'weight', nothing else")
        if settings["source"] == STORED:
            raise InputError(f"stored teachers stand alone, with a weight for each: {_STORED_FORM}, not {several!r}")
        weight = float(settings.get("weight", 1.0))
        if weight <= 0:
            raise InputError(f"weight {weight} of teacher {settings['source']!r} must be above 0: leave the teacher out")
        sources.append(settings["source"])
        weights.append(weight)
    return sources, weights


def _stored_weights(given: Mapping[str, Any]) -> list[float]:
    weights = given.get("weight", [])
    if set(given) - {"source", "weight"} or not isinstance(weights, list | tuple) or any(weight <= 0 for weight in weights):
        raise InputError(f"teachers {dict(given)!r}: stored teachers have a weight above 0 each, {_STORED_FORM}")
    return [float(weight) for weight in weights]


def open_teacher(source: Any) -> EvaluatedModel:
    """A teacher that learns nothing itself, on the CPU.

    Args:
        source: what `open_model` takes, or what a checkpoint noted of a live teacher.

    Raises:
        InputError: something that is no model of pictures and texts, or weights that cannot be had.
    """
    if isinstance(source, Mapping) and LIVE in source:
        raise InputError(
            f"the checkpoint was written with a live {source[LIVE]} as teacher, which it cannot hold: pass it again, "
            "load_from_checkpoint(path, teachers=...)"
        )
    if not isinstance(source, str | ClipModule | EvaluatedModel):
        kind = type(source).__name__
        raise InputError(
            f"teacher of type {kind} cannot encode pictures and texts: give a checkpoint, open_clip:NAME/PRETRAINED, hf:NAME, "
            "a folder, a ClipModule or an EvaluatedModel"
        )
    teacher = open_model(source)
    teacher.requires_grad_(False)
    return teacher


def width_of(teacher: EvaluatedModel) -> int:
    """A teacher's width, from one picture and one text.

    Raises:
        InputError: it cannot encode them, or not into vectors of one width.
    """
    try:
        with torch.no_grad():
            blank = torch.zeros(1, 3, teacher.image_size, teacher.image_size, dtype=torch.uint8, device=teacher.device)
            image, text = teacher.encode_image(blank)[0], teacher.encode_text(["a photo"])
    except Exception as error:  # of whatever library it comes from
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"teacher {teacher.name!r} cannot encode ({type(error).__name__}: {reason})") from error
    if image.ndim != 2 or image.shape[1] != text.shape[1]:
        raise InputError(
            f"teacher {teacher.name!r} gives {tuple(image.shape)} for a picture and {tuple(text.shape)} for a text: both must "
            "be (1, D)"
        )
    return int(image.shape[1])
