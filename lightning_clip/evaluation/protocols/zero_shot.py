"""Zero-shot classification with a classifier made of prompts: accuracies and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error, multilabel_average_precision

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.image_grids import prediction_sheet
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.plots import confusion_figure
from lightning_clip.reporting.text import percent

__all__ = ["ZeroShot", "calibration_error", "class_accuracies", "class_average_precision"]

_SHOWN = 16


def calibration_error(logits: Tensor, label: Tensor, bins: int = 15) -> float:
    """Expected calibration error in [0, 1] (Guo et al. 2017, equation 3), of softmax(logits).

    Args:
        logits: float (N, C), scaled by the inverse temperature.
        label: int64 (N,).
        bins: of equal width.
    """
    error = multiclass_calibration_error(torch.softmax(logits.double(), dim=1), label, logits.shape[1], bins, norm="l1")
    return float(error)


def class_average_precision(scores: Tensor, labels: Tensor) -> float:
    """Mean over classes that occur of the average precision; images may have several classes.

    Args:
        scores: float (N, C), higher for likelier.
        labels: int64 (N, C) of 0 and 1.

    Raises:
        InputError: no image has any class.
    """
    present = labels.sum(dim=0) > 0
    if not present.any():
        raise InputError("no image has any of the classes: mean average precision needs at least one")
    chosen, truth = scores[:, present], labels[:, present]
    low, high = chosen.double().min(), chosen.double().max()
    values = (chosen.double() - low) / (high - low).clamp(min=1e-12)  # in [0, 1], which torchmetrics takes as they are
    return float(multilabel_average_precision(values, truth, num_labels=int(present.sum()), average="macro"))


def class_accuracies(confusion: Tensor) -> list[float | None]:
    """Accuracy of each class in [0, 1], None for those without images.

    Args:
        confusion: counts int64 (C, C), rows are true classes.
    """
    totals = confusion.sum(dim=1)
    return [float(confusion[c, c] / totals[c]) if totals[c] else None for c in range(len(confusion))]


@protocols.register("zero_shot")
class ZeroShot(Protocol):
    """Zero-shot classification with prompt ensembles (Radford et al. 2021, section 3.1).

    Metrics: top1, top5, mean_per_class, calibration_error; mean_average_precision for sets with several classes an image.

    Args:
        bins: of the calibration error.
        per_template: also measures each template alone.
    """

    title = "Zero-shot classification"

    def __init__(self, bins: int = 15, per_template: bool = True) -> None:
        self.bins, self.per_template = bins, per_template

    def evaluate(self, subject: Subject) -> Result:
        """Accuracies, calibration and examples; mean average precision where images have several classes."""
        features, classifier = subject.features(), subject.classifier()
        if classifier.shape[1] < 2:
            raise InputError(f"a set of one class ({subject.dataset.names[0]!r}) tells nothing: give at least two class names")
        cosines = features.image_features @ classifier
        if features.label.ndim == 2:
            share = features.label.float().mean(dim=0)
            chance = float(share[share > 0].mean())
            return Result({"mean_average_precision": class_average_precision(cosines, features.label)},
                          {"mean_average_precision": chance})  # fmt: skip
        metric = ZeroShotAccuracy(classifier.shape[1])
        metric.update(cosines, features.label)
        metrics, confusion = metric.figures()
        logits = subject.scale * cosines
        metrics["calibration_error"] = calibration_error(logits, features.label, self.bins)
        return Result(
            metrics,
            metric.chance,
            (cosines.argmax(dim=1) == features.label).float().tolist(),
            {
                "classes": class_accuracies(confusion),
                "confusion": confusion.tolist() if metric.num_classes <= 100 else None,
                "templates": self._templates(subject) if self.per_template else {},
                "reliability": _reliability(logits, features.label, 10),
                **_examples(features.index, logits, features.label),
            },
        )

    def _templates(self, subject: Subject) -> dict[str, float]:
        """Top-1 of each template alone."""
        templates = list(subject.dataset.templates)
        if not 1 < len(templates) <= 100:
            return {}
        features = subject.features()
        found = {}
        for template in templates:
            predicted = (features.image_features @ subject.classifier(templates=[template])).argmax(dim=1)
            found[template] = float((predicted == features.label).float().mean())
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """Confusion, calibration, examples and templates for each model."""
        found = []
        several = {name: result for name, result in results.items() if result.details}
        for name, result in several.items():
            details = result.details
            figures = [("calibration", _reliability_figure(details["reliability"]))]
            if details["confusion"] is not None:
                figures.insert(0, ("confusion", confusion_figure(torch.tensor(details["confusion"]), dataset.names)))
            rows = _class_rows(details["classes"], dataset.names)
            text = "Confusion of classes and how far probabilities can be trusted; the best and worst classes:"
            found.append(Section(f"{name}: classes", text, Table(("class", "accuracy"), rows), figures))
            sheets = [
                (kind, sheet) for kind in ("best", "worst") if (sheet := prediction_sheet(dataset, details[kind])) is not None
            ]
            found.append(Section(f"{name}: surest right and surest wrong answers", figures=sheets))
            if details["templates"]:
                rows = [(template, percent(value)) for template, value in details["templates"].items()]
                shown = rows if len(rows) <= 20 else [*rows[:10], ("...", ""), *rows[-10:]]
                ensemble = f"All together reach {percent(result.metrics['top1'])}."
                found.append(Section(f"{name}: each template alone", ensemble, Table(("template", "top-1"), shown)))
        return found


def _examples(index: Tensor, logits: Tensor, label: Tensor) -> dict[str, list[list[float]]]:
    """The surest right and the surest wrong answers: [place, true class, answer, probability]."""
    probability, predicted = torch.softmax(logits, dim=1).max(dim=1)
    found = {}
    for name, rows in (("best", predicted == label), ("worst", predicted != label)):
        chosen = rows.nonzero().flatten()
        chosen = chosen[probability[chosen].argsort(descending=True, stable=True)][:_SHOWN]
        table = zip(index[chosen], label[chosen], predicted[chosen], probability[chosen], strict=True)
        found[name] = [[int(place), int(true), int(answer), float(p)] for place, true, answer, p in table]
    return found


def _reliability(logits: Tensor, label: Tensor, bins: int) -> list[list[float]]:
    """Of each bin of confidence: mean confidence, accuracy, share of images."""
    confidence, predicted = torch.softmax(logits.double(), dim=1).max(dim=1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    rows = []
    for number in range(bins):
        inside = which == number
        if inside.any():
            right = (predicted == label)[inside].double().mean()
            rows.append([float(confidence[inside].mean()), float(right), float(inside.double().mean())])
    return rows


def _reliability_figure(rows: list[list[float]]) -> Figure:
    figure = Figure(figsize=(4.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    confidence, accuracy, share = (np.array(column) for column in zip(*rows, strict=True))
    axes.plot([0, 100], [0, 100], color="#8a8f98", linestyle=":", label="calibrated")
    axes.plot(100 * confidence, 100 * accuracy, color="#2e8b57", linewidth=1.2)
    axes.scatter(100 * confidence, 100 * accuracy, s=15 + 200 * share, color="#2e8b57", label="area: share of images")
    axes.set(xlabel="confidence, %", ylabel="accuracy, %", title="calibration", xlim=(0, 102), ylim=(0, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _class_rows(accuracies: list[float | None], names: list[str], shown: int = 10) -> list[tuple[str, str]]:
    known = sorted(((value, names[c]) for c, value in enumerate(accuracies) if value is not None), key=lambda e: (-e[0], e[1]))
    rows = [(name, percent(value)) for value, name in known]
    return rows if len(rows) <= 2 * shown else [*rows[:shown], ("...", ""), *rows[-shown:]]
