"""Localization by words: whether the place that is most like a name is on the object that has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchmetrics.functional.classification import binary_auroc

from lightning_clip.applications.segmentation import Segmenter
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.masks import BACKGROUND, UNLABELLED
from lightning_clip.evaluation.masked_pictures import masked_pictures
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["Localization", "localized"]


@protocols.register("localization")
class Localization(Protocol):
    """For each object in each picture: is its name's best place on it, and how well do scores part its pixels from the others.

    Metrics: pointing, the share of objects that are hit; auc, the mean area under the ROC curve of pixels; objects, how many.
    Guessing a pixel hits an object as often as its share of the picture says.

    Args:
        method: of dense features, as for `dense_features`; None takes "naclip" for a ViT, else "plain".
        contrast: take off the mean similarity to the other names; without it what all prompts have in common decides.
        resolution: shorter side of the pictures in pixels; None takes the model's own.
        refine: steps in which scores are made to follow the picture's edges, at least 0; see `segmentation.refined`.
        limit: pictures at most; None for all.
    """

    title = "Localization"

    def __init__(
        self,
        method: str | None = None,
        contrast: bool = True,
        resolution: int | None = None,
        refine: int = 0,
        limit: int | None = None,
    ) -> None:
        if limit is not None:
            in_range("localization's limit", limit, 1, whole=True)
        self.method, self.contrast, self.resolution = method, contrast, resolution
        self.refine, self.limit = refine, limit

    def evaluate(self, subject: Subject) -> Result:
        """Points at each object by its name."""
        dataset = subject.dataset
        segmenter = Segmenter(
            subject.predictor,
            dataset.class_names,
            self.method,
            templates=list(dataset.templates),
            resolution=self.resolution,
            contrast=self.contrast,
            refine=self.refine,
        )
        hits: list[float] = []
        areas: list[float] = []
        shares: list[float] = []
        for _, picture, mask in masked_pictures(dataset, self.limit):
            scores = segmenter.scores(picture)
            for name in sorted(set(mask.flatten().tolist())):
                if name in (BACKGROUND, UNLABELLED):
                    continue
                hit, area = localized(scores[name], mask == name, mask != UNLABELLED)
                hits.append(float(hit))
                shares.append(float((mask == name).double().mean()))
                if area is not None:
                    areas.append(area)
        if not hits:
            raise InputError("the pictures have no objects to point at: all their masks are background")
        metrics = {"pointing": _mean(hits), "auc": _mean(areas), "objects": float(len(hits))}
        return Result(metrics, {"pointing": _mean(shares), "auc": 0.5}, hits)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models."""
        rows = [
            (name, in_percent(found.metrics["pointing"]), in_percent(found.metrics["auc"]), f"{found.metrics['objects']:.0f}")
            for name, found in results.items()
        ]
        guess = next(iter(results.values())).chance
        rows.append(("guessing", in_percent(guess["pointing"]), in_percent(guess["auc"]), ""))
        text = "In %. Pointing: the best place of an object's name is on it. AUC: its pixels score higher than others."
        return [Section("Pointing at objects", text, Table(("", "pointing", "AUC", "objects"), rows))]


def localized(scores: Tensor, inside: Tensor, counted: Tensor) -> tuple[bool, float | None]:
    """Whether the best pixel is inside, and the area under the ROC curve; None where all pixels are inside.

    Args:
        scores: float (H', W'), brought to the size of the mask.
        inside: bool (H, W), of the object.
        counted: bool (H, W), pixels of which it is known what they show.
    """
    large = interpolate(scores[None, None], (inside.shape[-2], inside.shape[-1]), mode="bilinear", align_corners=False)[0, 0]
    large = large.where(counted, -torch.inf)
    hit = bool(inside.flatten()[large.argmax()])
    values, truth = large[counted].double(), inside[counted]
    values = (values - values.min()) / (values.max() - values.min()).clamp(
        min=1e-300
    )  # torchmetrics squashes what is not in [0, 1]
    return hit, None if bool(truth.all()) else float(binary_auroc(values, truth.long(), validate_args=False))


def _mean(values: list[float]) -> float:
    return float(torch.tensor(values, dtype=torch.double).mean()) if values else 0.0
