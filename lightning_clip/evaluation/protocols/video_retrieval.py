"""Retrieval of videos by captions and of captions by videos, as MSR-VTT's split 1k-A has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.videos import video_features
from lightning_clip.metrics import retrieval_chance
from lightning_clip.metrics.scores import retrieval_scores
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["VideoRetrieval"]

_DIRECTIONS = {"text_to_image": "text_to_video", "image_to_text": "video_to_text"}


@protocols.register("video_retrieval")
class VideoRetrieval(Protocol):
    """Retrieval among the videos of a set with all their captions, by the cosine of their features.

    A model of images and texts is measured as it is: by the mean over the frames' features.

    Metrics: `text_to_video/recall@k`, `video_to_text/recall@k`, `.../median_rank`. A video is found by its best caption, as in
    CLIP4Clip's figures for sets with several captions a video.

    Args:
        ks: cut-offs of the recall.
        limit: videos at most; None for all.
    """

    title = "Video retrieval"

    def __init__(self, ks: Sequence[int] = (1, 5, 10), limit: int | None = None) -> None:
        if limit is not None:
            in_range("video_retrieval's limit", limit, 1, whole=True)
        self.ks, self.limit = list(ks), limit

    def evaluate(self, subject: Subject) -> Result:
        """Recall and median rank in both directions."""
        found = video_features(subject.predictor, subject.dataset.source, self.limit)
        described = torch.tensor([bool(captions) for captions in found.captions])
        if not described.any():
            raise InputError("this set has no captions: retrieval needs at least one for each video")
        texts = [text for captions in found.captions for text in captions]
        owner = torch.tensor(
            [place for place, captions in zip(found.index.tolist(), found.captions, strict=True) for _ in captions]
        )
        features = found.features[described]
        values, ranks = retrieval_scores(
            features,
            subject.encode_text(texts).float().cpu(),
            owner,
            self.ks,
            image_index=found.index[described],
            with_precision=False,
        )
        first = min(self.ks)
        metrics = {
            f"{shown}/{kind}": float(values[f"{name}/{kind}"])
            for name, shown in _DIRECTIONS.items()
            for kind in (*(f"recall@{k}" for k in self.ks), "median_rank")
        }
        chance = {key.replace(name, shown): value for key, value in retrieval_chance(owner, self.ks).items()
                  for name, shown in _DIRECTIONS.items() if key.startswith(name)}  # fmt: skip
        per_text = (ranks["text_to_image"] <= first).float()
        return Result(metrics, chance, per_text.tolist(), {"skipped": found.skipped})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models."""
        rows = []
        for name, result in results.items():
            for direction in _DIRECTIONS.values():
                recalls = [in_percent(result.metrics[f"{direction}/recall@{k}"]) for k in self.ks]
                median = f"{result.metrics[f'{direction}/median_rank']:.1f}"
                rows.append((name, direction.replace("_", " "), *recalls, median))
        header = ("", "direction", *(f"R@{k}" for k in self.ks), "median rank")
        skipped = max(len(result.details["skipped"]) for result in results.values())
        text = "Recall in %." + (f" {skipped} videos could not be read." if skipped else "")
        return [Section("Retrieval of videos", text, Table(header, rows))]
