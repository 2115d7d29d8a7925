"""Segmentation by words: mean intersection over union of areas that are named without training for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from lightning_clip.applications.segmentation import NOTHING, Segmenter
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.masks import BACKGROUND, UNLABELLED
from lightning_clip.evaluation.masked_pictures import masked_pictures
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.overlays import area_figure
from lightning_clip.reporting.text import in_percent

__all__ = ["Segmentation"]

_SHOWN, _SHOWN_SIDE = 3, 128
_NOT_COUNTED = -100


@protocols.register("segmentation")
class Segmentation(Protocol):
    """Mean intersection over union (mIoU) of a set with masks, over the whole set as its authors count it.

    Metrics: miou, over the classes that occur or are named; pixel_accuracy; `iou/<class>`.

    Args:
        method: of dense features, as for `dense_features`; None takes "naclip" for a ViT, else "plain".
        background: count what belongs to no class as a class of its own, which is named where `threshold` says so; else those
            pixels are not counted (VOC20, Context59).
        threshold: a pixel whose best class has a probability below it is background, in [0, 1]; needs `background`.
        resolution: shorter side of the pictures in pixels; None takes the model's own.
        overlap: of windows, in [0, 1).
        refine: steps in which scores are made to follow the picture's edges, at least 0; see `segmentation.refined`.
        limit: pictures at most; None for all.
    """

    title = "Segmentation"

    def __init__(
        self,
        method: str | None = None,
        background: bool = False,
        threshold: float = 0.0,
        resolution: int | None = None,
        overlap: float = 0.5,
        refine: int = 0,
        limit: int | None = None,
    ) -> None:
        in_range("segmentation's threshold", threshold, 0, 1)
        if limit is not None:
            in_range("segmentation's limit", limit, 1, whole=True)
        if bool(threshold) != background:
            raise InputError(
                f"segmentation has background {background} and threshold {threshold}: background is what stays below the "
                "threshold, so give both or neither"
            )
        self.method, self.background, self.threshold = method, background, threshold
        self.resolution, self.overlap, self.refine, self.limit = resolution, overlap, refine, limit

    def evaluate(self, subject: Subject) -> Result:
        """Segments each picture and counts pixels by what they are and what they were named."""
        dataset = subject.dataset
        settings = {name: getattr(self, name) for name in ("resolution", "overlap", "threshold", "refine")}
        segmenter = Segmenter(
            subject.predictor,
            dataset.class_names,
            self.method,
            templates=list(dataset.templates),
            **settings,  # type: ignore[arg-type]
        )
        names = [*dataset.names, *(["background"] if self.background else [])]
        metrics = _metrics(len(names))
        shown: list[dict[str, Any]] = []
        for place, picture, mask in masked_pictures(dataset, self.limit):
            labels = segmenter(picture).labels
            if self.background:
                last = len(names) - 1
                named, true = labels.where(labels != NOTHING, last), mask.where(mask != BACKGROUND, last)
            else:
                named, true = labels, mask.where(mask != BACKGROUND, _NOT_COUNTED)
            metrics.update(named[None], true.where(mask != UNLABELLED, _NOT_COUNTED)[None])
            if len(shown) < _SHOWN:
                shown.append({"place": place, "labels": _small(labels).tolist()})
        return self._result(metrics, names, shown)

    def _result(self, metrics: MetricCollection, names: list[str], shown: list[dict[str, Any]]) -> Result:
        found = metrics.compute()
        occurs = found["counts"].sum(dim=0) + found["counts"].sum(dim=1) > 0  # (C, C) -> (C,): is or is named
        own = {f"iou/{name}": float(found["each"][label]) for label, name in enumerate(names) if occurs[label]}
        return Result(
            {"miou": float(found["miou"]), "pixel_accuracy": float(found["pixels"]), **own},
            details={"shown": shown},
        )

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """Figures of each class and the first pictures, named."""
        names = [
            name for name in [*dataset.names, "background"] if any(f"iou/{name}" in found.metrics for found in results.values())
        ]
        heads = {"miou": "mean IoU", "pixel_accuracy": "pixels named right"} | {f"iou/{name}": name for name in names}
        rows = [
            (title, *(in_percent(found.metrics[key]) if key in found.metrics else "" for found in results.values()))
            for key, title in heads.items()
        ]
        text = "In %. Intersection over union of each class over all pictures together."
        figures = [
            (f"{model}: {dataset.source.place(entry['place'])}", self._figure(dataset, entry))
            for model, found in results.items()
            for entry in found.details["shown"]
        ]
        return [Section("Areas by class", text, Table(("class", *results), rows)), Section("Pictures", "", figures=figures)]

    def _figure(self, dataset: EvaluationSet, entry: Mapping[str, Any]) -> Any:
        picture = dataset.picture(entry["place"])
        labels = torch.tensor(entry["labels"])[None, None].float()
        size = (picture.shape[-2], picture.shape[-1])
        return area_figure(picture, interpolate(labels, size, mode="nearest")[0, 0].long(), dataset.names)


def _metrics(classes: int) -> MetricCollection:
    """Figures of areas from one table of counts."""
    options: dict[str, Any] = {"num_classes": classes, "ignore_index": _NOT_COUNTED, "validate_args": False}
    return MetricCollection(
        {
            "miou": MulticlassJaccardIndex(average="macro", **options),
            "each": MulticlassJaccardIndex(average="none", **options),
            "counts": MulticlassConfusionMatrix(**options),
            "pixels": MulticlassAccuracy(average="micro", **options),
        }
    )


def _small(labels: Tensor) -> Tensor:
    """(H, W) -> at most `_SHOWN_SIDE` a side, for the report."""
    step = max(1, -(-max(labels.shape) // _SHOWN_SIDE))
    return labels[::step, ::step]
