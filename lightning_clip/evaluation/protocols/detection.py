"""Detection by words: mean average precision of the boxes that a model draws around what names say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_clip.applications.detection import Detector
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.boxes import boxed
from lightning_clip.evaluation.boxed_pictures import boxed_pictures
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.boxes import box_figure
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["Detection"]

_SHOWN = 3
_SURE = 0.2  # of boxes in the report


@protocols.register("detection")
class Detection(Protocol):
    """Mean average precision (mAP) of boxes, as COCO counts it: 100 boxes a picture, precision at 101 recalls.

    Metrics: map50, of boxes that share half with the true one (intersection over union); map, the mean over 0.5, 0.55 ... 0.95;
    map75; both of each group of classes that the set names, as `map50/held_out`; `ap50/<class>`. Classes without boxes in the
    set do not count. All class names are asked of every picture.

    Args:
        overlap: of boxes with one name that share a larger part the surest stays, in [0, 1]; 1 keeps all.
        boxes: of a picture at most, the surest; COCO counts 100.
        limit: pictures at most; None for all.
    """

    title = "Detection"

    def __init__(self, overlap: float = 0.7, boxes: int = 100, limit: int | None = None) -> None:
        in_range("detection's overlap", overlap, 0, 1)
        in_range("detection's boxes", boxes, 1, whole=True)
        if limit is not None:
            in_range("detection's limit", limit, 1, whole=True)
        self.overlap, self.boxes, self.limit = overlap, boxes, limit

    def evaluate(self, subject: Subject) -> Result:
        """Draws boxes in each picture and compares them with the true ones."""
        metric, dataset = _metric(self.boxes), subject.dataset
        detector = Detector(
            subject.predictor,
            dataset.class_names,
            templates=list(dataset.templates),
            threshold=0.0,
            overlap=self.overlap,
            limit=self.boxes,
            every_name=True,
        )
        shown: list[dict[str, Any]] = []
        total = 0
        for place, picture, boxes in boxed_pictures(dataset, self.limit):
            found = detector(picture)
            sides = torch.tensor([picture.shape[-1], picture.shape[-2]] * 2)
            metric.update(
                [{"boxes": found.boxes, "scores": found.scores, "labels": found.labels}],
                [{"boxes": boxes.corners * sides, "labels": boxes.labels, "iscrowd": boxes.crowd.long()}],
            )
            total += int((~boxes.crowd).sum())
            if len(shown) < _SHOWN:
                sure = found.scores >= _SURE
                kept = {"boxes": found.boxes[sure], "labels": found.labels[sure], "scores": found.scores[sure]}
                shown.append({"place": place, **{name: value.tolist() for name, value in kept.items()}})
        if not total:
            raise InputError("the pictures have no boxes to find: mean average precision needs some")
        return self._result(metric.compute(), dataset, shown, total)

    def _result(self, found: Mapping[str, Any], dataset: EvaluationSet, shown: list[dict[str, Any]], total: int) -> Result:
        names = dataset.names
        of_class = _by_class(found)  # label -> average precision (T,) at each overlap
        metrics = _means(list(of_class.values()))
        source = boxed(dataset.source)
        for group, members in (source.class_groups() if source else {}).items():
            own = [values for label, values in of_class.items() if names[label] in members]
            metrics |= {f"{key}/{group}": value for key, value in _means(own).items() if own}
        metrics |= {f"ap50/{names[label]}": float(values[0]) for label, values in of_class.items()}
        return Result({**metrics, "objects": float(total)}, details={"shown": shown})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """Figures of all classes, of groups and of each class, and the first pictures with the boxes that are sure."""
        known = dict.fromkeys(key for found in results.values() for key in found.metrics if key != "objects")
        rows = [
            (
                key.replace("_", " "),
                *(in_percent(found.metrics[key]) if key in found.metrics else "" for found in results.values()),
            )
            for key in known
        ]
        text = f"Mean average precision in %. Pictures show boxes with a score from {_SURE:g}."
        figures = [
            (f"{model}: {dataset.source.place(entry['place'])}", self._figure(dataset, entry))
            for model, found in results.items()
            for entry in found.details["shown"]
        ]
        return [Section("Boxes by words", text, Table(("", *results), rows)), Section("Pictures", "", figures=figures)]

    def _figure(self, dataset: EvaluationSet, entry: Mapping[str, Any]) -> Any:
        picture = dataset.picture(entry["place"])
        boxes, labels, scores = (torch.tensor(entry[name]) for name in ("boxes", "labels", "scores"))
        return box_figure(picture, boxes.reshape(-1, 4), labels.long(), scores, dataset.names)


def _metric(boxes: int) -> Any:
    """Torchmetrics' mean average precision.

    Raises:
        InputError: COCO's own evaluation, which it calls, is not installed.
    """
    from torchmetrics.detection import MeanAveragePrecision

    options: dict[str, Any] = {"max_detection_thresholds": [1, 10, max(boxes, 11)], "extended_summary": True}
    try:
        return MeanAveragePrecision("xyxy", "bbox", class_metrics=False, backend="pycocotools", **options)
    except ModuleNotFoundError as error:
        raise InputError(
            "protocol 'detection' counts with pycocotools, which is not installed: pip install 'lightning-clip[detection]'"
        ) from error


def _by_class(found: Mapping[str, Any]) -> dict[int, Tensor]:
    """Label -> average precision (T,) at each overlap, for classes that have objects."""
    precision = found["precision"][:, :, :, 0, -1].double()  # (T, R, K, areas, counts) -> (T, R, K)
    labels = found["classes"].reshape(-1).tolist()
    return {label: precision[:, :, place].mean(dim=1) for place, label in enumerate(labels) if precision[0, 0, place] >= 0}


def _means(values: Sequence[Tensor]) -> dict[str, float]:
    """Over classes: at an overlap of 0.5, over all overlaps, and at 0.75."""
    if not values:
        return {}
    whole = torch.stack(list(values)).mean(dim=0)  # (K, T) -> (T,)
    return {"map50": float(whole[0]), "map": float(whole.mean()), "map75": float(whole[5])}
