"""Distillation: a student that relates images and texts as its teachers do, live ones or what was stored of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.types import ClipOutput, PairBatch, TeacherFeatures
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.losses.distillation import DISTANCES, feature_distance, relational_kl
from lightning_clip.model.build import Temperature
from lightning_clip.model.recipe import plain_spec
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective, objectives
from lightning_clip.tasks.teachers import STORED, LiveTeachers, sources_of, stored_dims

__all__ = ["Distillation"]


@objectives.register("distillation")
class Distillation(Objective):
    """Learns from teachers: of any architecture, width, tokenizer and image size, and several at once.

    The loss is `logits` times `relational_kl` plus `features` times `feature_distance` of images and texts, each averaged over
    teachers by their weights. Teachers see the student's very crop (in their own size) and caption. Features of "stored"
    teachers were computed beforehand by `lightning-clip data teach` and come with the pairs. Evaluation has no teachers, and a
    checkpoint needs none to be used. Beside the pairs' own loss::

        objective: [{name: pairs, weight: 0.5}, {name: distillation, teachers: last.ckpt}]

    Args:
        teachers: "stored", or one or several of: a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER, a folder, a
            `ClipModule`, an `EvaluatedModel`, a mapping {"source": ..., "weight": ...}. Stored ones count alike, or as
            {"source": "stored", "weight": [2.0, 1.0]} says.
        logits: weight of the relational divergence, >= 0; each side has its own temperature.
        features: weight of the distance of features, >= 0; a linear layer a tower and teacher bridges the widths.
        distance: "mse" or "cosine".
        teacher_dims: widths of the teachers; None reads them from the teachers or the training data. A checkpoint knows them.

    Raises:
        InputError: no teacher, one that cannot encode, a negative weight, weights that are both 0, or pairs without stored
            features.
    """

    training_parts = frozenset({"bridges"})
    evaluated = False

    def __init__(
        self,
        teachers: Any = STORED,
        logits: float = 1.0,
        features: float = 0.0,
        distance: str = "mse",
        teacher_dims: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if min(logits, features) < 0 or logits + features == 0:
            raise InputError(
                f"logits {logits} and features {features} are weights of the loss: from 0, and one of them above it"
            )
        if distance not in DISTANCES:
            raise InputError(f"unknown distance {distance!r}: {nearest(distance, DISTANCES)}")
        self.logits, self.features, self.distance = logits, features, distance
        self.teachers, self.weights = sources_of(teachers)
        self.teacher_dims = None if teacher_dims is None else list(teacher_dims)
        # In a list of its own: neither trained nor written into checkpoints.
        self._live = [] if self.teachers == STORED else [LiveTeachers(self.teachers)]

    # -- before the first step --------------------------------------------------------------------------------------

    def reads(self) -> tuple[str, ...]:
        return ("image", "text")

    def initial_temperature(self) -> Temperature:
        return Temperature(learned=self.logits > 0)

    def learns(self) -> tuple[str, ...]:
        """Both towers and the bridges; the temperature only where logits depend on it."""
        both = tuple(f"{column}_{part}." for column in self.reads() for part in ("encoder", "projection"))
        return (*both, "bridges.", *(("logit_scale",) if self.logits else ()))

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        if self.features and self.teacher_dims is None:
            self.teacher_dims = self._live[0].dims() if self._live else stored_dims(data)

    def open(self) -> None:
        if not self._live:
            return
        dims = self._live[0].dims()
        if self.teacher_dims not in (None, dims):
            raise self._other_widths(dims)
        self.teacher_dims = dims

    def build(self, space: SharedSpace) -> None:
        if self.features:
            assert self.teacher_dims is not None
            space.bridges = nn.ModuleDict(
                {
                    f"{tower}_{place}": nn.Identity() if dim == space.embed_dim else nn.Linear(space.embed_dim, dim, bias=False)
                    for place, dim in enumerate(self.teacher_dims)
                    for tower in self.reads()
                }
            )

    # -- in a step --------------------------------------------------------------------------------------------------

    def once(self, space: SharedSpace, output: ClipOutput, batch: PairBatch) -> Mapping[str, Any]:
        """Features at each teacher's width, behind the bridges."""
        if not self.features or not self.training:
            return {}
        bridges: Any = space.bridges
        return {name: bridge(output.features[name.partition("_")[0]]) for name, bridge in bridges.items()}  # (B, D) -> (B, D_t)

    def forward(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        taught = self.taught(batch)
        weights = self.weights or [1.0] * len(taught.scales)
        if len(weights) != len(taught.scales):
            raise InputError(
                f"teachers has {len(weights)} weights, but the pairs have features of {len(taught.scales)} teachers"
            )
        shares = [weight / sum(weights) for weight in weights]
        parts: dict[str, Tensor] = {}
        if self.logits:
            parts["logits"] = self._relations(output, taught, shares)
        if self.features:
            parts["features"] = self._distances(output, taught, shares)
        total = torch.stack([getattr(self, name) * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def taught(self, batch: PairBatch) -> TeacherFeatures:
        """The teachers' features of a batch, stored ones or computed now.

        Args:
            batch: with images and texts for live teachers.

        Raises:
            InputError: stored ones are named and the pairs have none, or their widths are others than in training.
        """
        if self._live:
            found = self._live[0].encode(batch)
        elif batch.teachers is not None:
            found = batch.teachers
        else:
            raise InputError(
                f"pair {batch.keys[0]!r} or another of its batch has no stored teacher features, or those of other "
                "teachers: write all shards by lightning-clip data teach with the same ones, or name live teachers"
            )
        dims = [image.shape[1] for image in found.image]
        if self.features and dims != self.teacher_dims:
            raise self._other_widths(dims)
        return found

    def _relations(self, output: ClipOutput, taught: TeacherFeatures, shares: list[float]) -> Tensor:
        own = output.features["image"], output.features["text"], output.scale
        every = zip(shares, taught.image, taught.text, taught.scales, strict=True)
        alone = not self.training
        return torch.stack(
            [share * relational_kl(*own, image, text, scale, alone=alone) for share, image, text, scale in every]
        ).sum()

    def _distances(self, output: ClipOutput, taught: TeacherFeatures, shares: list[float]) -> Tensor:
        """Half of images and half of texts, the mean over all ranks' rows."""
        total: list[Tensor] = []
        for tower, of_teachers in (("image", taught.image), ("text", taught.text)):
            for place, (share, teacher) in enumerate(zip(shares, of_teachers, strict=True)):
                total.append(share / 2 * feature_distance(output.rows[f"{tower}_{place}"], teacher, self.distance))  # (B,)
        return self.mean(torch.stack(total).sum(dim=0))  # (2K, B) -> (B,) -> ()

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def to_mapping(self) -> Any:
        own = {key: getattr(self, key) for key in ("logits", "features", "distance", "teacher_dims")}
        return {"name": "distillation", "teachers": self._named(), **own}

    def inherited(self) -> Any | None:
        return None

    def _named(self) -> Any:
        """Teachers as a checkpoint notes them, live ones by class."""
        if self.teachers == STORED:
            return {"source": STORED, "weight": self.weights} if self.weights else STORED
        sources = [source if isinstance(source, str) else plain_spec(source) for source in self.teachers]
        return [{"source": source, "weight": weight} for source, weight in zip(sources, self.weights, strict=True)]

    def _other_widths(self, dims: list[int]) -> InputError:
        return InputError(f"the teachers' widths are {dims}, but this student was made for {self.teacher_dims}")
