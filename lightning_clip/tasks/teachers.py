"""Teachers: what a user named, live models that encode a student's batch, and the widths of stored features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import LIVE
from lightning_clip.core.types import KeptFeatures, PairBatch, TeacherFeatures
from lightning_clip.data.teachers import teachers_of
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.models import open_model
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.tasks.class_names import source_of

__all__ = ["STORED", "LiveTeachers", "open_teacher", "sources_of", "stored_dims", "width_of"]

STORED = "stored"
_STORED_FORM = "{'source': 'stored', 'weight': [2.0, 1.0]}"
_AT_ONCE = 64  # images or texts in a teacher's memory, without gradients


class LiveTeachers:
    """Teachers that encode the batches of a student; opened when they are first asked.

    Args:
        sources: what `open_teacher` takes, of each.
    """

    def __init__(self, sources: Sequence[Any]) -> None:
        self.sources = list(sources)
        self._opened: list[EvaluatedModel] = []

    def open(self) -> list[EvaluatedModel]:
        """The teachers, in the order of their sources.

        Raises:
            InputError: see `open_teacher`.
        """
        if not self._opened:
            self._opened = [open_teacher(source) for source in self.sources]
        return self._opened

    def dims(self) -> list[int]:
        """The width of each.

        Raises:
            InputError: see `open_teacher` and `width_of`.
        """
        return [width_of(teacher) for teacher in self.open()]

    @torch.no_grad()
    def encode(self, batch: PairBatch) -> TeacherFeatures:
        """Features of the student's very crops, at each teacher's size, and of its chosen captions.

        Args:
            batch: with pixels uint8 (B, 3, S, S).

        Raises:
            InputError: kept features in the place of pixels.
        """
        image = batch.image
        if image is None or isinstance(image, KeptFeatures):
            raise InputError("live teachers need images, which adapt.image.cache leaves out: take stored teachers, or no cache")
        texts = batch.texts if batch.texts is not None else [captions[0] for captions in batch.captions]
        images, written, scales = [], [], []
        for teacher in self.open():
            teacher.to(image.device)
            images.append(torch.cat([_encoded(teacher, part) for part in torch.split(image, _AT_ONCE)]))  # (B, D_t)
            written.append(teacher.encode_text(texts, _AT_ONCE).to(image.device))  # (B, D_t)
            scales.append(teacher.scale)
        return TeacherFeatures(images, written, scales)


def _encoded(teacher: EvaluatedModel, pixels: torch.Tensor) -> torch.Tensor:
    """Unit features (B, D_t) of pixels (B, 3, S, S) of any size."""
    side = [teacher.image_size, teacher.image_size]
    if list(pixels.shape[-2:]) != side:
        pixels = resize(pixels, side, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return teacher.encode_image(pixels)[0]


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
            raise InputError(f"weight {weight} of teacher {settings['source']!r} must be above 0: omit the teacher")
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
        InputError: something that is no model of images and texts, or weights that cannot be read.
    """
    if isinstance(source, Mapping) and LIVE in source:
        raise InputError(
            f"the checkpoint was written with a live {source[LIVE]} as teacher, which it cannot hold: pass it again, "
            "load_from_checkpoint(path, teachers=...)"
        )
    if not isinstance(source, str | ClipModule | EvaluatedModel):
        kind = type(source).__name__
        raise InputError(
            f"teacher of type {kind} cannot encode images and texts: give a checkpoint, open_clip:NAME/PRETRAINED, hf:NAME, "
            "a folder, a ClipModule or an EvaluatedModel"
        )
    teacher = open_model(source)
    teacher.requires_grad_(False)
    return teacher


def width_of(teacher: EvaluatedModel) -> int:
    """A teacher's width, from one image and one text.

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
            f"teacher {teacher.name!r} gives {tuple(image.shape)} for an image and {tuple(text.shape)} for a text: both must "
            "be (1, D)"
        )
    return int(image.shape[1])


def stored_dims(data: Any | None) -> list[int]:
    """Widths of the teachers whose features are stored beside the training pairs.

    Args:
        data: the run's data module, or None.

    Raises:
        InputError: there is no data, or no features in it, or it is a stream.
    """
    source = source_of(data, "train")
    pair = source[0] if source is not None and getattr(source, "random_access", True) else None
    found = None if pair is None or not pair.captions else teachers_of(pair, pair.captions[0])
    if found is None:
        name = "the training data" if pair is None else f"pair {pair.key!r}"
        raise InputError(
            f"{name} has no stored teacher features: write shards with them by lightning-clip data teach, name live "
            "teachers, or give teacher_dims for a stream"
        )
    return [len(teacher.image) for teacher in found]
