"""What travels between the rooms: a source hands out a `Pair`, a loader a `PairBatch`, the model a `ClipOutput`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["ClipOutput", "KeptFeatures", "Pair", "PairBatch", "Skipped", "TeacherFeatures", "Tokens"]

# A sample's member in a shard that holds teachers' features, and where they are in a pair's metadata.
TEACHERS = "teachers.safetensors"


@dataclass(frozen=True)
class Pair:
    """One image with its texts, still as it was stored.

    Args:
        image: encoded bytes (JPEG, PNG, ...) or uint8 pixels (3, H, W); None for samples of further columns alone.
        captions: the texts that describe it; at least one for training a text tower, may be empty for labelled images.
        key: a name that finds the sample again, used in reports.
        label: class index for labelled sets, otherwise None.
        metadata: whatever else the source knows.
        weights: how likely each caption is to be drawn, relative to the others; None where all are equal.
        columns: raw values of further columns by name: numbers, arrays, tensors.
    """

    image: bytes | Tensor | None
    captions: tuple[str, ...]
    key: str
    label: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[float, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


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


class Tokens(NamedTuple):
    """Texts as a text tower reads them.

    Attributes:
        tokens: ids int64 (B, L); None where there are none.
        mask: bool (B, L), True on text; None where it follows from the id of padding.
        lengths: per row the place after its last token, where it is known without asking the device.
    """

    tokens: Tensor | None
    mask: Tensor | None = None
    lengths: Sequence[int] | None = None


class KeptFeatures(NamedTuple):
    """Features of a frozen tower that were computed before, in the place of what it reads.

    Attributes:
        features: float32 (B, W), before the head.
    """

    features: Tensor


class PairBatch(NamedTuple):
    """A collated batch of B pairs.

    Attributes:
        image: uint8 (B, 3, H, W), or kept features of a frozen image tower; None where no tower reads images.
        tokens: int64 (B, L), L being the longest caption of the batch rounded up to a multiple of 8; None where no tower reads
            texts.
        mask: bool (B, L), True where `tokens` holds text.
        label: int64 (B,), -1 where there is none.
        index: int64 (B,), the sample's place in its source.
        captions: per image all its captions; `tokens` holds the chosen one.
        keys: per image its name.
        skipped: samples of this batch that were dropped.
        lengths: per row the place after its last token; known to the loader, so that no device is waited for.
        texts: per image the chosen caption, for those who read it with another tokenizer.
        teachers: features that were stored beside the pairs, see `lightning-clip data teach`.
        digests: per image 16 bytes that stand for the image, where features are kept by them.
        columns: values of further columns by name: tensors (B, ...), or tuples and mappings of such.
    """

    image: Tensor | KeptFeatures | None
    tokens: Tensor | None
    mask: Tensor | None
    label: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it
    captions: list[tuple[str, ...]]
    keys: list[str]
    skipped: list[Skipped]
    lengths: list[int] | None = None
    texts: list[str] | None = None
    teachers: TeacherFeatures | None = None
    digests: list[bytes] | None = None
    columns: Mapping[str, Any] = {}

    @property
    def size(self) -> int:
        """B, whatever columns there are."""
        return len(self.index)

    def value(self, column: str) -> Any:
        """What a tower of this column reads; None where the batch has nothing for it."""
        if column == "image":
            return self.image
        if column == "text":
            return None if self.tokens is None else Tokens(self.tokens, self.mask, self.lengths)
        return self.columns.get(column)


class ClipOutput(NamedTuple):
    """Features of unit length in the shared space, by column, and what else was computed for each row.

    Attributes:
        features: column -> (B, D).
        scale: (1,), the exponential of `logit_scale`: the inverse temperature.
        bias: (1,) or None, added to the logits by the sigmoid loss.
        rows: whatever a hook or an objective computes for each row, by name: tensors (B, ...), or mappings of such.
            Micro-batches put them together as they do features.
        tokens: column -> features of all tokens (B, L, W), where an objective reads them; they never leave a micro-batch.
    """

    features: Mapping[str, Tensor]
    scale: Tensor
    bias: Tensor | None = None
    rows: Mapping[str, Any] = {}
    tokens: Mapping[str, Tensor] = {}

    @property
    def image_features(self) -> Tensor | None:
        """(B, D), or None where no image was given."""
        return self.features.get("image")

    @property
    def text_features(self) -> Tensor | None:
        """(B, D), or None where no text was given."""
        return self.features.get("text")
