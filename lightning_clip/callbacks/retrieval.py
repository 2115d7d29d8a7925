"""`Retrieval`: features of the validation ranked in both directions, logged as `val/retrieval/<direction>/recall@k`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from lightning_clip.callbacks.pair_scores import PairScores
from lightning_clip.core.types import ClipOutput, PairBatch
from lightning_clip.evaluation.repeats import warn_of_repeats
from lightning_clip.evaluation.retrieval_examples import spread_queries
from lightning_clip.metrics import RetrievalRecall
from lightning_clip.model.predictor import Predictor, predictor_of

__all__ = ["DescribedImage", "Retrieval", "RetrievalExample", "RetrievalResult"]

_EXAMPLES, _SHOWN = 6, 5
_DESCRIBED, _CAPTIONS = 16, 3


@dataclass
class RetrievalExample:
    """A caption, the index of its own image and the indices of the images found, best first."""

    caption: str
    own: int
    found: list[int]


@dataclass
class DescribedImage:
    """The index of an image and the captions found for it, best first, each with whether it is its own."""

    image: int
    captions: list[tuple[str, bool]]


@dataclass
class RetrievalResult:
    """The last evaluation: metrics, the same of random ranking, and queries to look at, captions and images."""

    metrics: dict[str, float]
    chance: dict[str, float]
    examples: list[RetrievalExample]
    described: list[DescribedImage] = field(default_factory=list)


class _Score(NamedTuple):
    """This rank's scores: row of a caption -> (N,) with all images, row of an image -> (M,) with all captions."""

    of_text: Callable[[int], Tensor]
    of_image: Callable[[int], Tensor]


class Retrieval(pl.Callback):
    """Text-to-image and image-to-text retrieval among the images of the validation (or test) data, with all their captions.

    Image features come from the validation step, texts are encoded here, and they are compared by their cosine, or by what the
    model's objective scores pairs by, such as FLAIR; pictures are kept until the end then. Keys are
    `val/retrieval/image_to_text/recall@5`, `val/retrieval/text_to_image/median_rank` and so on; they are those of the protocol
    `retrieval`.

    Args:
        ks: cut-offs of the recall, at least 1 each.
        column: what is found by captions in place of images, such as "video"; keys are then `val/retrieval/video_to_text/...`.

    Raises:
        InputError: no cut-off, or one below 1.
    """

    def __init__(self, ks: tuple[int, ...] = (1, 5, 10), column: str = "image") -> None:
        self.ks, self.column = RetrievalRecall(ks).ks, column
        self.result: RetrievalResult | None = None
        self._metric: RetrievalRecall | None = None
        self._predictor: Predictor | None = None
        self._scores: PairScores | None = None
        self._captions: list[tuple[str, int]] = []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start(pl_module)

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        self._add(outputs, batch)

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any) -> None:
        self._add(outputs, batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._finish(pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._finish(pl_module, "test")

    def _start(self, module: pl.LightningModule) -> None:
        self._predictor = predictor_of(module)
        self._metric = RetrievalRecall(self.ks).to(self._predictor.device)
        self._scores = PairScores.asked(self._predictor, self._metric) if self.column == "image" else None
        self._captions = []

    def _add(self, output: ClipOutput, batch: PairBatch) -> None:
        assert self._predictor is not None and self._metric is not None
        described = [row for row, captions in enumerate(batch.captions) if captions]
        features = output.features.get(self.column)
        if not described or features is None:
            return
        indices = batch.index.tolist()
        texts = [(caption, indices[row]) for row in described for caption in batch.captions[row]]
        text_features = self._predictor.encode_text([caption for caption, _ in texts])  # (T, D)
        text_index = torch.tensor([index for _, index in texts], device=text_features.device)
        rows = torch.tensor(described, device=batch.index.device)
        self._metric.update(features[rows].detach(), batch.index[rows], text_features, text_index)
        if self._scores is not None and batch.image is not None:
            self._scores.add(batch.image[rows])
        self._captions += texts

    def _finish(self, module: pl.LightningModule, stage: str) -> None:
        if self._metric is None:
            return
        found, score = self._figures(self._metric)
        metrics = {key.replace("image", self.column): float(value) for key, value in found.items()}
        for key, value in metrics.items():
            module.log(f"{stage}/retrieval/{key}", value, sync_dist=True)
        warn_of_repeats(self._metric.whole("image_features"), f"{stage} retrieval")
        chance = {key.replace("image", self.column): value for key, value in self._metric.chance().items()}
        index = self._metric.whole("image_index")
        self.result = RetrievalResult(metrics, chance, self._examples(score, index), self._described(score, index))
        self._metric = self._predictor = self._scores = None

    def _figures(self, metric: RetrievalRecall) -> tuple[dict[str, Tensor], _Score]:
        """Metrics over all ranks, and how this rank's own images and captions score each other."""
        if self._scores is None:
            images, texts = metric.whole("image_features"), metric.whole("text_features")
            return metric.compute(), _Score(lambda text: images @ texts[text], lambda image: texts @ images[image])
        metrics, scores = self._scores.compute()
        return metrics, _Score(lambda text: scores[:, text], lambda image: scores[image])

    def _examples(self, score: _Score, image_index: Tensor) -> list[RetrievalExample]:
        """A few captions spread over this rank's data, with the images it would show for them."""
        found = spread_queries(score.of_text, image_index, len(self._captions), _EXAMPLES, _SHOWN)
        return [RetrievalExample(*self._captions[row], places) for row, places in found]

    def _described(self, score: _Score, image_index: Tensor) -> list[DescribedImage]:
        """A few images spread over this rank's data, with the captions it would give them."""
        texts = torch.arange(len(self._captions), device=image_index.device)
        found = spread_queries(score.of_image, texts, len(image_index), _DESCRIBED, _CAPTIONS)
        index, described = image_index.tolist(), []
        for row, places in found:
            captions = [self._captions[place] for place in places]
            described.append(DescribedImage(index[row], [(caption, own == index[row]) for caption, own in captions]))
        return described
