"""Zero-shot classification of actions in videos, as CLIP's paper measures it on UCF101 and Kinetics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from lightning_clip.applications.video.scores import VIDEO_TEMPLATES
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.videos import video_features
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["VideoZeroShot"]


@protocols.register("video_zero_shot")
class VideoZeroShot(Protocol):
    """The class whose name is most like a video.

    A model of images and texts is measured as it is: by the mean over the frames' features.

    Metrics: top1, top5 (where there are more than five classes), mean_per_class: the mean over classes of their top1.

    Args:
        templates: with {} where the class name goes; None takes those for actions ("a video of a person {}.").
        limit: videos at most; None for all.
    """

    title = "Zero-shot classification of videos"

    def __init__(self, templates: Sequence[str] | None = None, limit: int | None = None) -> None:
        if limit is not None:
            in_range("video_zero_shot's limit", limit, 1, whole=True)
        self.templates, self.limit = None if templates is None else list(templates), limit

    def evaluate(self, subject: Subject) -> Result:
        """Top-1 and top-5 accuracy."""
        names = subject.dataset.class_names
        found = video_features(subject.predictor, subject.dataset.source, self.limit)
        labels = found.label
        wrong = (labels < 0) | (labels >= len(names))
        if wrong.any():
            place = int(found.index[wrong][0])
            raise InputError(
                f"video {subject.dataset.source.place(place)} has label {int(labels[wrong][0])}, outside the {len(names)} "
                "class names: labels count them from 0"
            )
        classifier = subject.classifier(list(names), list(self.templates or VIDEO_TEMPLATES)).float().cpu()  # (D, C)
        order = (found.features @ classifier).argsort(dim=1, descending=True, stable=True)  # (N, C)
        hits = order == labels[:, None]
        right = hits[:, 0]
        metrics = {"top1": float(right.double().mean())}
        chance = {"top1": 1 / len(names)}
        if len(names) > 5:
            metrics["top5"], chance["top5"] = float(hits[:, :5].any(dim=1).double().mean()), 5 / len(names)
        metrics["mean_per_class"] = float(
            torch.stack([right[labels == one].double().mean() for one in sorted(set(labels.tolist()))]).mean()
        )
        chance["mean_per_class"] = 1 / len(names)
        return Result(metrics, chance, right.float().tolist(), {"skipped": found.skipped})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models."""
        kinds = list(next(iter(results.values())).metrics)
        rows = [(name, *(in_percent(result.metrics[kind]) for kind in kinds)) for name, result in results.items()]
        text = f"In %, among {len(dataset.class_names)} classes."
        return [Section("Actions in videos", text, Table(("", *kinds), rows))]
