"""Distillation: pairs and teachers of any kind arrive, a student that relates images and texts as they do leaves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.types import ClipOutput, KeptFeatures, PairBatch, TeacherFeatures
from lightning_clip.data import ClipDataModule
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.losses.distillation import DISTANCES, feature_distance, relational_kl
from lightning_clip.model.recipe import plain_spec
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.tasks.teachers import STORED, open_teacher, sources_of, width_of

__all__ = ["DistillationModule"]


class DistillationModule(ClipModule):
    """A `ClipModule` that learns from teachers: of any architecture, width, tokenizer and picture size, and several at once.

    The loss is `contrastive` times the ordinary one, plus `logits` times `relational_kl`, plus `features` times
    `feature_distance` of images and texts, the last two averaged over teachers by their weights. Teachers see the student's
    very crop (in their own size) and caption. Teachers "stored" were asked beforehand by `lightning-clip data teach`, and
    their features come with the pairs. Validation scores the pairs alone. A checkpoint needs no teacher to be used.

    Args:
        *towers: image and text encoder, as of `ClipModule`.
        teachers: "stored", or one or several of: a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER, a folder, a
            `ClipModule`, an `EvaluatedModel`, a mapping {"source": ..., "weight": ...}. Stored ones count alike, or as
            {"source": "stored", "weight": [2.0, 1.0]} says.
        contrastive: weight of the loss over the pairs themselves.
        logits: weight of the relational divergence; each side has its own temperature.
        features: weight of the distance of features; a linear layer a tower and teacher bridges the widths.
        distance: "mse" or "cosine".
        teacher_dims: widths of the teachers; a checkpoint knows them.
        **arguments: of `ClipModule`.

    Raises:
        InputError: no teacher, one that cannot encode, a negative weight, or pairs without stored features.
    """

    training_parts = frozenset({"bridges"})

    def __init__(
        self,
        *towers: Any,
        teachers: Any = STORED,
        contrastive: float = 0.0,
        logits: float = 1.0,
        features: float = 0.0,
        distance: str = "mse",
        teacher_dims: Sequence[int] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(*towers, **arguments)
        if min(contrastive, logits, features) < 0 or contrastive + logits + features == 0:
            raise InputError(
                f"contrastive {contrastive}, logits {logits} and features {features} are weights of the loss: from 0, and one "
                "of them above it"
            )
        if distance not in DISTANCES:
            raise InputError(f"unknown distance {distance!r}: {nearest(distance, DISTANCES)}")
        self.contrastive, self.logits, self.features, self.distance = contrastive, logits, features, distance
        self.teachers, self.weights = sources_of(teachers)
        self.teacher_dims = None if teacher_dims is None else list(teacher_dims)
        # In a list of its own: neither trained nor written into checkpoints.
        self._opened: list[list[EvaluatedModel]] = []

    # -- loss -------------------------------------------------------------------------------------------------------

    def compute_loss(self, output: ClipOutput, batch: PairBatch) -> dict[str, Tensor]:
        own = super().compute_loss(output, batch)["loss"] if self.contrastive or not self.training else None
        if not self.training or not self._taught:
            assert own is not None
            return {"loss": self.contrastive * own if self.training else own}
        assert output.image_features is not None and output.text_features is not None
        taught = self.taught(batch)
        weights = self.weights or [1.0] * len(taught.scales)
        if len(weights) != len(taught.scales):
            raise InputError(
                f"teachers has {len(weights)} weights, but the pairs have features of {len(taught.scales)} teachers"
            )
        shares = [weight / sum(weights) for weight in weights]
        parts: dict[str, Tensor] = {} if own is None else {"contrastive": own}
        if self.logits:
            parts["logits"] = torch.stack(
                [
                    share * relational_kl(output.image_features, output.text_features, output.scale, image, text, scale)
                    for share, image, text, scale in zip(shares, taught.image, taught.text, taught.scales, strict=True)
                ]
            ).sum()
        if self.features:
            both = zip(shares, taught.image, taught.text, strict=True)
            parts["features"] = torch.stack(
                [
                    share * (self._distance(output.image_features, image, "image", place)
                             + self._distance(output.text_features, text, "text", place)) / 2
                    for place, (share, image, text) in enumerate(both)
                ]
            ).sum()  # fmt: skip
        total = torch.stack([getattr(self, name) * part for name, part in parts.items()]).sum()
        return {"loss": total, **parts}

    def taught(self, batch: PairBatch) -> TeacherFeatures:
        """The teachers' features of a batch, stored ones or made now.

        Raises:
            InputError: stored ones are asked for and the pairs have none, or their widths are others than in training.
        """
        if self.teachers == STORED:
            if batch.teachers is None:
                raise InputError(
                    f"pair {batch.keys[0]!r} or another of its batch has no stored teacher features, or those of other "
                    "teachers: write all shards by lightning-clip data teach with the same ones, or name live teachers"
                )
            found = batch.teachers
        else:
            found = self._asked(batch)
        dims = [image.shape[1] for image in found.image]
        if self.features and dims != self.teacher_dims:
            raise InputError(f"the teachers' widths are {dims}, but this student was made for {self.teacher_dims}")
        return found

    def _asked(self, batch: PairBatch) -> TeacherFeatures:
        texts = batch.texts if batch.texts is not None else [captions[0] for captions in batch.captions]
        if isinstance(batch.image, KeptFeatures):
            raise InputError(
                "live teachers need pictures, which adapt.image.cache leaves out: take stored teachers, or no cache"
            )
        size, device = self.micro_batch_size or 256, batch.image.device
        images, written, scales = [], [], []
        with torch.no_grad():
            for teacher in self._open():
                teacher.to(device)
                side = [teacher.image_size, teacher.image_size]
                same = list(batch.image.shape[-2:]) == side
                parts = []
                for part in torch.split(batch.image, size):
                    pixels = part if same else resize(part, side, interpolation=InterpolationMode.BICUBIC, antialias=True)
                    parts.append(teacher.encode_image(pixels)[0])
                images.append(torch.cat(parts))
                written.append(teacher.encode_text(texts, size).to(device))
                scales.append(teacher.scale)
        return TeacherFeatures(images, written, scales)

    def _distance(self, features: Tensor, teacher: Tensor, tower: str, place: int) -> Tensor:
        bridges: Any = self.model.bridges
        return feature_distance(bridges[f"{tower}_{place}"](features), teacher, self.distance)

    # -- parts ------------------------------------------------------------------------------------------------------

    @property
    def _taught(self) -> bool:
        """Whether teachers have a say; without them the student alone can be measured."""
        return self.logits + self.features > 0

    def setup(self, stage: str) -> None:
        """Opens the teachers before the towers are built, so that what is wrong with them is said at once."""
        if stage == "fit" and self._taught:
            self._dims()

    def read_data(self, data: ClipDataModule) -> None:
        if self.features and self.teachers == STORED and self.teacher_dims is None:
            self.teacher_dims = self._stored_dims(data)

    def complete_model(self) -> None:
        if self.features:
            self.model.bridges = nn.ModuleDict(
                {
                    f"{tower}_{place}": nn.Identity() if dim == self.embed_dim else nn.Linear(self.embed_dim, dim, bias=False)
                    for place, dim in enumerate(self._dims())
                    for tower in ("image", "text")
                }
            )

    def to_mapping(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in ("contrastive", "logits", "features", "distance", "teacher_dims")}
        return {**super().to_mapping(), **own, "teachers": self._named()}

    def _named(self) -> Any:
        if self.teachers == STORED:
            return {"source": STORED, "weight": self.weights} if self.weights else STORED
        sources = [source if isinstance(source, str) else plain_spec(source) for source in self.teachers]
        return [{"source": source, "weight": weight} for source, weight in zip(sources, self.weights, strict=True)]

    def _dims(self) -> list[int]:
        if self.teacher_dims is None or (self.teachers != STORED and not self._opened and self._trainer is not None):
            data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
            dims = self._stored_dims(data) if self.teachers == STORED else [width_of(teacher) for teacher in self._open()]
            if self.teacher_dims not in (None, dims):
                raise InputError(f"the teachers' widths are {dims}, but this student was made for {self.teacher_dims}")
            self.teacher_dims = dims
        return self.teacher_dims or []

    def _open(self) -> list[EvaluatedModel]:
        if not self._opened:
            self._opened.append([open_teacher(source) for source in self.teachers])
        return self._opened[0]

    def _stored_dims(self, data: Any) -> list[int]:
        from lightning_clip.data.teachers import teachers_of

        source = data.source("train") if hasattr(data, "source") else None
        pair = source[0] if source is not None and getattr(source, "random_access", True) else None
        found = None if pair is None or not pair.captions else teachers_of(pair, pair.captions[0])
        if found is None:
            name = "the training data" if pair is None else f"pair {pair.key!r}"
            raise InputError(
                f"{name} has no stored teacher features: write shards with them by lightning-clip data teach, name live "
                "teachers, or give teacher_dims for a stream"
            )
        return [len(teacher.image) for teacher in found]
