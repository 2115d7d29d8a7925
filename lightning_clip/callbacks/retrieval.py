"""Retrieval while training: validation features arrive, `val/retrieval/<direction>/recall@k` and median ranks are logged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.metrics import RetrievalRecall, retrieval_chance
from lightning_clip.module.clip_module import ClipModule

__all__ = ["Retrieval", "RetrievalExample", "RetrievalResult"]

_EXAMPLES, _SHOWN = 6, 5


@dataclass
class RetrievalExample:
    """A caption, the index of its own image and the indices of the images found, best first."""

    caption: str
    own: int
    found: list[int]


@dataclass
class RetrievalResult:
    """The last evaluation: metrics, the same of random ranking, and queries to look at."""

    metrics: dict[str, float]
    chance: dict[str, float]
    examples: list[RetrievalExample]


class Retrieval(pl.Callback):
    """Text-to-image and image-to-text retrieval among the images of the validation (or test) data, with all their captions.

    Image features come from the validation step, texts are encoded here. Keys are
    `val/retrieval/image_to_text/recall@5`, `val/retrieval/text_to_image/median_rank` and so on.

    Args:
        ks: cut-offs of the recall.
    """

    def __init__(self, ks: tuple[int, ...] = (1, 5, 10)) -> None:
        self.ks = tuple(ks)
        self.result: RetrievalResult | None = None
        self._metric: RetrievalRecall | None = None
        self._captions: list[tuple[str, int]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._add(pl_module, outputs, batch)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._add(pl_module, outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(pl_module, "test")

    def _start(self, module: pl.LightningModule) -> None:
        self._metric = RetrievalRecall(self.ks).to(module.device)
        self._captions = []

    def _add(self, module: pl.LightningModule, output: ClipOutput, batch: PairBatch) -> None:
        assert isinstance(module, ClipModule) and self._metric is not None
        described = [row for row, captions in enumerate(batch.captions) if captions]
        if not described or output.image_features is None:
            return
        indices = batch.index.tolist()
        texts = [(caption, indices[row]) for row in described for caption in batch.captions[row]]
        text_features = module.encode_text([caption for caption, _ in texts])
        text_index = torch.tensor([index for _, index in texts], device=module.device)
        rows = torch.tensor(described, device=module.device)
        self._metric.update(output.image_features[rows].detach(), batch.index[rows], text_features, text_index)
        self._captions += texts

    def _finish(self, module: pl.LightningModule, stage: str) -> None:
        if self._metric is None:
            return
        metrics = {key: float(value) for key, value in self._metric.compute().items()}
        for key, value in metrics.items():
            module.log(f"{stage}/retrieval/{key}", value, sync_dist=True)
        with self._metric.sync_context():  # chance is that of all ranks' captions
            index = _whole(self._metric.text_image_index).cpu()
        self.result = RetrievalResult(metrics, retrieval_chance(index, self.ks), self._examples(self._metric))
        self._metric = None

    def _examples(self, metric: RetrievalRecall) -> list[RetrievalExample]:
        """A few captions spread over the data, with the images this rank would show for them."""
        image_features, image_index = _whole(metric.image_features), _whole(metric.image_index)
        text_features = _whole(metric.text_features)
        step = max(1, len(self._captions) // _EXAMPLES)
        examples = []
        for row in range(0, min(len(self._captions), step * _EXAMPLES), step):
            caption, own = self._captions[row]
            best = (image_features @ text_features[row]).topk(min(_SHOWN, len(image_features))).indices
            examples.append(RetrievalExample(caption, own, image_index[best].tolist()))
        return examples


def _whole(state: Any) -> Tensor:
    return torch.cat(state) if isinstance(state, list) else state
