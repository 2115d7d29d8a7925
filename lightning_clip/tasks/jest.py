"""Batches chosen from larger ones by what can be learned from them, as a reference model tells."""

from __future__ import annotations

from typing import Any

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import PairBatch
from lightning_clip.data.learnability import learnable_rows, odds
from lightning_clip.losses import ContrastiveLoss, losses
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.recipe import plain_spec
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import ContrastivePairs, objectives
from lightning_clip.tasks.teachers import STORED, LiveTeachers, sources_of
from lightning_clip.training.micro_batches import take

__all__ = ["Jest"]


@objectives.register("jest")
class Jest(ContrastivePairs):
    """Pairs, after joint example selection (Evans et al. 2024, arXiv 2406.17711).

    The loader's batch is the large one: `keep` of it is learned from. It is encoded by the learner and the reference without
    gradient, and chosen in chunks in proportion to e^learnability, the learner's loss minus the reference's, within what has
    been chosen: see `data.learnability`. Each rank chooses from its own batch.

    Args:
        reference: a model trained on good data: a .ckpt, open_clip:NAME/PRETRAINED, hf:NAME_OR_FOLDER, a folder, or a
            `ClipModule`.
        keep: share of the batch that is learned from, in (0, 1].
        chunks: in which it is drawn.
        loss: of what is chosen: "sigmoid" as in the paper, "softmax", a mapping or an object.
        slice_size: pairs encoded at a time for the choice.
    """

    def __init__(
        self,
        reference: Any,
        keep: float = 0.2,
        chunks: int = 16,
        loss: str | dict[str, Any] | ContrastiveLoss = "sigmoid",
        slice_size: int = 256,
    ) -> None:
        super().__init__(loss)
        in_range("jest: keep", keep, 0, 1, open_low=True)
        in_range("jest: chunks", chunks, 1, whole=True)
        self.keep, self.chunks, self.slice_size = keep, chunks, slice_size
        self.reference, _ = sources_of(reference)
        if self.reference == STORED:
            raise InputError("jest needs a live reference model: name a checkpoint, open_clip:NAME/TAG or hf:NAME")
        if len(self.reference) > 1:
            raise InputError(f"jest has one reference model, and {len(self.reference)} are named: name one")
        self._models = [LiveTeachers(self.reference)]  # in a list: neither trained nor written into checkpoints

    def open(self) -> None:
        """Opens the reference when a fit begins."""
        self._models[0].dims()

    @torch.no_grad()
    def select(self, space: SharedSpace, batch: PairBatch) -> PairBatch:
        parts = [take(batch, rows) for rows in torch.split(torch.arange(batch.size), self.slice_size)]
        with evaluating(space):
            images, texts = (torch.cat([space.encode(name, part.value(name)) for part in parts]) for name in self.between)
        told = self._models[0].encode(batch)
        learner = odds(space.scale() * images @ texts.T)  # (N, N)
        reference = odds(told.scales[0] * told.image[0] @ told.text[0].T)
        count = max(1, round(self.keep * batch.size))
        return take(batch, learnable_rows(learner, reference, count, self.chunks).cpu())

    def to_mapping(self) -> Any:
        reference = [source if isinstance(source, str) else plain_spec(source) for source in self.reference]
        own = {"reference": reference[0], "keep": self.keep, "chunks": self.chunks, "slice_size": self.slice_size}
        return {"name": "jest", "loss": losses.describe(self.loss), **own}

    def inherited(self) -> Any | None:
        return {"name": "pairs", "loss": losses.describe(self.loss)}
