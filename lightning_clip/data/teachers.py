"""Teachers' features stored beside the pairs, in members of the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lightning_clip.core.types import TEACHERS, Pair, TeacherFeatures
from lightning_clip.data.sources import PairSource

__all__ = ["StoredTeacher", "TaughtSource", "stacked", "stored_features", "teachers_of"]


class StoredTeacher(NamedTuple):
    """One teacher's features of one pair.

    Attributes:
        image: (D,), unit.
        text: (captions, D), unit, in the order of the captions; of a visit (D,), of the caption that is shown.
        scale: the teacher's inverse temperature.
    """

    image: Tensor
    text: Tensor
    scale: float


def stored_features(teachers: Sequence[StoredTeacher], dtype: torch.dtype = torch.float16) -> bytes:
    """What a shard holds of a pair: safetensors with `K.image`, `K.text` and `K.scale` of teacher K."""
    tensors = {}
    for number, teacher in enumerate(teachers):
        tensors[f"{number}.image"] = teacher.image.to(dtype).contiguous()
        tensors[f"{number}.text"] = teacher.text.to(dtype).contiguous()
        tensors[f"{number}.scale"] = torch.tensor([teacher.scale])
    return save(tensors)


def teachers_of(pair: Pair, caption: str) -> list[StoredTeacher] | None:
    """The teachers' features of a pair under one of its captions, float32; None where none are stored.

    Raises:
        ValueError: stored features that are broken, or a caption that the teachers have not seen.
    """
    content = pair.metadata.get(TEACHERS)
    if content is None:
        return None
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError("stored teacher features are broken") from error
    if caption not in pair.captions:
        raise ValueError("the teachers have not seen this caption: choose one of the pair's own")
    row = pair.captions.index(caption)
    return [
        StoredTeacher(
            tensors[f"{number}.image"].float(), tensors[f"{number}.text"][row].float(), float(tensors[f"{number}.scale"])
        )
        for number in range(len(tensors) // 3)
    ]


def stacked(found: Sequence[list[StoredTeacher] | None]) -> TeacherFeatures | None:
    """Those of a batch; None unless all pairs have them, of the same teachers as far as widths and temperatures tell."""
    if not found or any(teachers is None for teachers in found):
        return None
    if len({tuple((len(teacher.image), teacher.scale) for teacher in teachers or []) for teachers in found}) > 1:
        return None
    columns = list(zip(*(teachers or [] for teachers in found), strict=True))
    return TeacherFeatures(
        image=[torch.stack([teacher.image for teacher in column]) for column in columns],
        text=[torch.stack([teacher.text for teacher in column]) for column in columns],
        scales=[column[0].scale for column in columns],
    )


class TaughtSource(PairSource):
    """A source with teachers' features put beside its pairs, for packing.

    Args:
        source: pairs with captions.
        image: per teacher unit features (N, D) of the images, by place in the source, float.
        text: per teacher, place -> unit features (captions, D).
        scales: per teacher.
        dtype: of what is stored.
    """

    def __init__(
        self,
        source: PairSource,
        image: Sequence[Mapping[int, Tensor]],
        text: Sequence[Mapping[int, Tensor]],
        scales: Sequence[float],
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.source, self.image, self.text, self.scales, self.dtype = source, image, text, scales, dtype

    def __len__(self) -> int:
        return len(self.source)

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(index)

    def __getitem__(self, index: int) -> Pair:
        pair = self.source[index]
        teachers = []
        for image, text, scale in zip(self.image, self.text, self.scales, strict=True):
            if index not in image:
                raise ValueError("image that the teacher could not read")
            if index not in text:
                raise ValueError("no caption")
            teachers.append(StoredTeacher(image[index], text[index], scale))
        metadata: dict[str, Any] = {**pair.metadata, TEACHERS: stored_features(teachers, self.dtype)}
        return replace(pair, metadata=metadata)
