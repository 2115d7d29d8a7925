"""`ZeroShotClassification`: labelled sets scored at each validation, logged as `val/zero_shot/<dataset>/top1` and its kin."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.patches import is_packed, picture_of
from lightning_clip.core.pauses import pause
from lightning_clip.evaluation.images import ImageBatch, Images, class_numbers
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.model.predictor import HasPredictor, Predictor, predictor_of
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["ZeroShotClassification", "ZeroShotResult"]

log = logging.getLogger(__name__)
_EXAMPLES = 32
_SPREAD = 2654435761  # of Knuth's multiplicative hashing
Example = tuple[Tensor, int, int, float]


@dataclass
class ZeroShotResult:
    """The last evaluation of one set, with what a report shows of it.

    Attributes:
        metrics: "top1", "top5", "mean_per_class" in [0, 1].
        chance: expected top-1 of guessing.
        class_names: the candidates, the first name of each.
        confusion: int64 (C, C), rows are true classes.
        examples: (uint8 image (3, S, S), true class, predicted class, its probability).
    """

    metrics: dict[str, float]
    chance: float
    class_names: list[str]
    confusion: Tensor
    examples: list[Example] = field(default_factory=list)


class ZeroShotClassification(pl.Callback):
    """Scores labelled images against prompts for their classes at the end of each validation and test run.

    Every rank evaluates its own share; torchmetrics adds the shares up, so that no rank holds the features of all. Metric keys
    are `val/zero_shot/<dataset>/top1`, `top5` and `mean_per_class` (`test/...` under `Trainer.test`). They are those of the
    protocol `zero_shot`; `EvaluationSuite` runs all protocols. The training is the same with or without this callback.

    Args:
        datasets: dataset name -> a path (class folders, shards), a registered set, a mapping with `class_names` and
            `templates`, or an `EvaluationSet`.
        local_batch_size: images encoded at a time, at least 1.
        num_workers: loader processes.

    Raises:
        InputError: a set that does not open, has fewer than two classes, or several classes an image.

    Examples:
        >>> callback = ZeroShotClassification({"held_out": {"name": "synthetic", "held_out": True, "size": 64}})
        >>> list(callback.datasets)
        ['held_out']
    """

    def __init__(self, datasets: Mapping[str, Any], *, local_batch_size: int = 256, num_workers: int = 0) -> None:
        self.datasets: dict[str, EvaluationSet] = {name: open_evaluation_set(spec) for name, spec in datasets.items()}
        for name, dataset in self.datasets.items():
            if dataset.multilabel or len(dataset.class_names) < 2:
                has = "several classes an image" if dataset.multilabel else f"{len(dataset.class_names)} class names"
                raise InputError(f"evaluation set {name!r} has {has}: use EvaluationSuite with a protocol that fits it")
        self.local_batch_size, self.num_workers = local_batch_size, num_workers
        self.results: dict[str, ZeroShotResult] = {}

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._evaluate(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluate(pl_module, "test")

    def _evaluate(self, module: pl.LightningModule, stage: str) -> None:
        predictor = predictor_of(module)
        for name, dataset in self.datasets.items():
            result = self.results[name] = self.evaluate(predictor, dataset)
            for key, value in result.metrics.items():
                module.log(f"{stage}/zero_shot/{name}/{key}", value, sync_dist=True)

    def evaluate(self, source: Predictor | HasPredictor, dataset: EvaluationSet) -> ZeroShotResult:
        """Zero-shot accuracy of a model on one set; under several ranks each must ask.

        Args:
            source: a predictor, or a module that has one.
            dataset: with one class an image.

        Raises:
            InputError: no image with a label among the classes, or an object without a predictor.
        """
        predictor = predictor_of(source)
        score = predictor.scorer(dataset.class_names, list(dataset.templates), self.local_batch_size)
        metric = ZeroShotAccuracy(len(dataset.class_names)).to(predictor.device)
        images = Images(dataset.source, predictor.transform)
        examples = _Examples()
        skipped = 0
        with isolate_rng():  # loaders draw seeds for their workers
            for batch in images.loader(self.local_batch_size, self.num_workers):
                skipped += len(batch.skipped)
                if not batch.samples:
                    continue
                logits, label = score(batch.image), class_numbers(batch.samples)  # (B, 3, S, S) -> (B, C)
                metric.update(logits, label.to(logits.device))
                examples.take(batch, logits, label)
                pause()
        if skipped:
            log.warning("zero-shot: %d images could not be read and were skipped", skipped)
        metrics, confusion = metric.figures()
        return ZeroShotResult(metrics, metric.chance["top1"], dataset.names, confusion, examples.shown())


class _Examples:
    """Some images of a set, of each class equally many: of many classes one image of some, of few classes several of each."""

    def __init__(self) -> None:
        self._met: Counter[int] = Counter()
        self._kept: dict[tuple[int, int, int], Example] = {}

    def take(self, batch: ImageBatch, logits: Tensor, label: Tensor) -> None:
        """Keeps what belongs to the examples, of the images up to now.

        Args:
            batch: B images.
            logits: (B, C).
            label: (B,), true classes.
        """
        probability, predicted = torch.softmax(logits.float(), dim=-1).max(dim=-1)  # (B, C) -> (B,), (B,)
        for row, (name, of, share) in enumerate(zip(label.tolist(), predicted.tolist(), probability.tolist(), strict=True)):
            # The first image of each class goes before the second of any; classes in an order that is spread over all.
            place = (self._met[name], name * _SPREAD % (1 << 32), name)
            self._met[name] += 1
            if len(self._kept) < _EXAMPLES or place < max(self._kept):
                image = picture_of(batch.image[row]) if is_packed(batch.image) else batch.image[row].clone()
                self._kept[place] = (image, name, of, share)
            if len(self._kept) > _EXAMPLES:
                del self._kept[max(self._kept)]

    def shown(self) -> list[Example]:
        """The examples, a round of classes after the other."""
        return [self._kept[place] for place in sorted(self._kept, key=lambda place: (place[0], place[2]))]
