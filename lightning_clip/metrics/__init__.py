"""Metrics: pure functions on features and thin torchmetrics classes over them."""

from lightning_clip.metrics.retrieval import RetrievalRecall, retrieval_chance, retrieval_metrics, retrieval_ranks
from lightning_clip.metrics.zero_shot import ZeroShotAccuracy

__all__ = ["RetrievalRecall", "ZeroShotAccuracy", "retrieval_chance", "retrieval_metrics", "retrieval_ranks"]
