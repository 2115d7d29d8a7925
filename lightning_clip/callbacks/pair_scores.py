"""Scores of a validation's pictures and captions, by objectives that compare the two by more than their features."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_clip.core.distributed import gathered, world
from lightning_clip.metrics import RetrievalRecall
from lightning_clip.metrics.over_ranks import rows_of_all
from lightning_clip.metrics.scores import matrix_scores
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.scoring import own_text_scorer

__all__ = ["PairScores"]


class PairScores:
    """Keeps a validation's pictures until all its captions are known, then asks the objective; FLAIR is one that answers.

    Pictures stay in the memory of the CPU, as they left their transform: one byte a value.

    Args:
        predictor: of the model.
        metric: what the callback adds features to.
    """

    def __init__(self, predictor: Predictor, metric: RetrievalRecall) -> None:
        self._predictor, self._metric = predictor, metric
        self._pictures: list[Tensor] = []

    @classmethod
    def asked(cls, predictor: Predictor, metric: RetrievalRecall) -> PairScores | None:
        """One of these where the model's objective scores texts itself; the same on every rank, whatever data it has.

        Args:
            predictor: of the model.
            metric: what the callback adds features to.
        """
        probe = torch.zeros(1, predictor.model.embed_dim, device=predictor.device)
        return None if own_text_scorer(predictor, probe) is None else cls(predictor, metric)

    def add(self, images: Tensor) -> None:
        """Pictures (B, 3, S, S) or packed patches, in the order of the metric's."""
        self._pictures.append(images.cpu())

    def compute(self) -> tuple[dict[str, Tensor], Tensor]:
        """`RetrievalRecall`'s metrics over all ranks, each of which must ask, and this rank's scores (N, M) of its own rows."""
        texts, device = self._metric.whole("text_features"), self._predictor.device
        every = rows_of_all(texts if len(texts) else texts.new_zeros(0, self._predictor.model.embed_dim))
        score = own_text_scorer(self._predictor, every)
        assert score is not None
        rows = [score(images.to(device)).float() for images in self._pictures]
        scores = torch.cat(rows) if rows else every.new_zeros(0, len(every))  # -> (N, all M)
        index, text_index = (rows_of_all(self._metric.whole(name)) for name in ("image_index", "text_image_index"))
        figures, _ = matrix_scores(rows_of_all(scores), text_index, self._metric.ks, image_index=index)
        metrics = {key: value for key, value in figures.items() if not key.endswith("mean_average_precision")}
        before = sum(gathered(len(texts))[: world()[0]])
        return metrics, scores[:, before : before + len(texts)]
