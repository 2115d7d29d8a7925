"""What travels between the rooms: a source hands out a `Pair`, a loader a `PairBatch`, the model a `ClipOutput`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["ClipOutput", "Pair", "PairBatch", "Skipped", "TeacherFeatures"]

# A sample's member in a shard that holds teachers' features, and where they are in a pair's metadata.
TEACHERS = "teachers.safetensors"


@dataclass(frozen=True)
class Pair:
    """One image with its texts, still as it was stored.

    Args:
        image: encoded bytes (JPEG, PNG, ...) or uint8 pixels (3, H, W).
        captions: the texts that describe it; at least one for training, may be empty for labelled images.
        key: a name that finds the sample again, used in reports.
        label: class index for labelled sets, otherwise None.
        metadata: whatever else the source knows.
        weights: how likely each caption is to be drawn, relative to the others; None where all are equal.
    """

    image: bytes | Tensor
    captions: tuple[str, ...]
    key: str
    label: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None


class Skipped(NamedTuple):
    """A sample that could not be used, and why."""

    key: str
    reason: str


class TeacherFeatures(NamedTuple):
    """What teachers made of a batch; one entry a teacher.

    Attributes:
        image: unit features (B, D_k).
        text: unit features (B, D_k) of the chosen captions.
        scales: inverse temperatures.
    """

    image: list[Tensor]
    text: list[Tensor]
    scales: list[float]


class PairBatch(NamedTuple):
    """A collated batch of B pairs.

    Attributes:
        image: uint8 (B, 3, H, W); or float32 (B, W), features of a locked image tower that were computed before.
        tokens: int64 (B, L), L being the longest caption of the batch rounded up to a multiple of 8.
        mask: bool (B, L), True where `tokens` holds text.
        label: int64 (B,), -1 where there is none.
        index: int64 (B,), the sample's place in its source.
        captions: per image all its captions; `tokens` holds the chosen one.
        keys: per image its name.
        skipped: samples of this batch that were dropped.
        lengths: per row the place after its last token; known to the loader, so that no device is waited for.
        texts: per image the chosen caption, for those who read it with another tokenizer.
        teachers: features that were stored beside the pairs, see `lightning-clip data teach`.
        digests: per image 16 bytes that stand for the picture, where features are kept by them.
    """

    image: Tensor
    tokens: Tensor
    mask: Tensor
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it
    captions: list[tuple[str, ...]]
    keys: list[str]
    skipped: list[Skipped]
    lengths: list[int] | None = None
    texts: list[str] | None = None
    teachers: TeacherFeatures | None = None
    digests: list[bytes] | None = None


class ClipOutput(NamedTuple):
    """Features of unit length in the shared space; a modality that was not given is None.

    Attributes:
        image_features: (B, D) or None.
        text_features: (B, D) or None.
        scale: (1,), the exponential of `logit_scale`: the inverse temperature.
        bias: (1,) or None, added to the logits by the sigmoid loss.
    """

    image_features: Tensor | None
    text_features: Tensor | None
    scale: Tensor
    bias: Tensor | None = None
