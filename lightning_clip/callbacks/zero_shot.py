"""Zero-shot classification while training: labelled sets arrive, `val/zero_shot/<dataset>/top1` and its kin are logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_clip.core.types import PairBatch
from lightning_clip.data import ClipDataModule
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["ZeroShotClassification", "ZeroShotResult"]

log = logging.getLogger(__name__)
_EXAMPLES = 32


@dataclass
class ZeroShotResult:
    """The last evaluation of one set, with what a report shows of it.

    Attributes:
        metrics: "top1", "top5", "mean_per_class" in [0, 1].
        chance: expected top-1 of guessing.
        class_names: the candidates.
        confusion: int64 (C, C), rows are true classes.
        examples: (uint8 image (3, H, W), true class, predicted class, its probability).
    """

    metrics: dict[str, float]
    chance: float
    class_names: list[str]
    confusion: Tensor
    examples: list[tuple[Tensor, int, int, float]] = field(default_factory=list)


class ZeroShotClassification(pl.Callback):
    """Scores labelled images against prompts for their classes at the end of each validation and test run.

    Every rank evaluates its own share; torchmetrics adds the shares up. Metric keys are `val/zero_shot/<dataset>/top1`,
    `top5` and `mean_per_class` (`test/...` under `Trainer.test`).

    Args:
        datasets: dataset name -> a path (class folders, shards), a registered set, a mapping with `class_names` and
            `templates`, or an `EvaluationSet`.
        local_batch_size: images encoded at a time.
        num_workers: loader processes.

    Raises:
        InputError: a set that does not open.

    Examples:
        >>> callback = ZeroShotClassification({"held_out": {"name": "synthetic", "held_out": True, "size": 64}})
        >>> list(callback.datasets)
        ['held_out']
    """

    def __init__(self, datasets: Mapping[str, Any], *, local_batch_size: int = 256, num_workers: int = 0) -> None:
        self.datasets: dict[str, EvaluationSet] = {name: open_evaluation_set(spec) for name, spec in datasets.items()}
        self.local_batch_size, self.num_workers = local_batch_size, num_workers
        self.results: dict[str, ZeroShotResult] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluate(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate(pl_module, "test")

    def _evaluate(self, module: pl.LightningModule, stage: str) -> None:
        assert isinstance(module, ClipModule)
        for name, dataset in self.datasets.items():
            result = self.results[name] = self.evaluate(module, dataset)
            for key, value in result.metrics.items():
                module.log(f"{stage}/zero_shot/{name}/{key}", value, sync_dist=True)

    def evaluate(self, module: ClipModule, dataset: EvaluationSet) -> ZeroShotResult:
        """Zero-shot accuracy of `module` on one set."""
        class_names = dataset.names
        classifier = module.zero_shot_classifier(class_names, dataset.templates)
        scale = module.model.scale()
        metric = ZeroShotAccuracy(len(class_names)).to(module.device)
        examples: list[tuple[Tensor, int, int, float]] = []
        skipped = 0
        for batch in self._batches(module, dataset):
            skipped += len(batch.skipped)
            if not len(batch.image):
                continue
            logits = scale * module.encode_image(batch.image, self.local_batch_size) @ classifier
            metric.update(logits, batch.label.to(module.device))
            examples += _examples(batch, logits, max(1, len(dataset.source) // _EXAMPLES))[: _EXAMPLES - len(examples)]
        if skipped:
            log.warning("zero-shot: %d images could not be read and were left out", skipped)
        values = metric.compute()
        confusion = values.pop("confusion").cpu()
        metrics = {key: float(value) for key, value in values.items()}
        return ZeroShotResult(metrics, 1 / len(class_names), class_names, confusion, examples)

    def _batches(self, module: ClipModule, dataset: EvaluationSet) -> Iterator[PairBatch]:
        data = ClipDataModule(local_batch_size=self.local_batch_size, num_workers=self.num_workers).attach(module)
        yield from data.evaluation_loader(dataset.source)


def _examples(batch: PairBatch, logits: Tensor, stride: int) -> list[tuple[Tensor, int, int, float]]:
    """Every so many images of the set: sets are often sorted by class."""
    rows = (batch.index % stride == 0).nonzero().flatten()
    probability, predicted = torch.softmax(logits[rows.to(logits.device)].float(), dim=-1).max(dim=-1)
    found = zip(batch.image[rows.to(batch.image.device)].cpu(), batch.label[rows.to(batch.label.device)].tolist(),
                predicted.tolist(), probability.tolist(), strict=True)  # fmt: skip
    return list(found)
