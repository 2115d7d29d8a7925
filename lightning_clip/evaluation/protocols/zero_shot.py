"""Zero-shot classification with a classifier made of prompts: accuracies and calibration."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.image_grids import prediction_sheet
from lightning_clip.evaluation.multilabel import class_average_precision, multilabel_figures, roc_auc
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, headed, protocols
from lightning_clip.metrics import ZeroShotAccuracy
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.plots import confusion_figure
from lightning_clip.reporting.text import percent

__all__ = ["ZeroShot", "calibration_error", "class_accuracies", "class_average_precision", "further_figures"]

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


def further_figures(metrics: Mapping[str, float], scores: Tensor, label: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Measures that some sets are reported by, and what guessing gives: the area under the ROC, the mean of top-1 and top-5.

    Args:
        metrics: with top1 and top5.
        scores: float (N, C), higher for likelier.
        label: int64 (N,).
    """
    classes = scores.shape[1]
    if classes == 2 and len(torch.unique(label)) == 2:
        return {"roc_auc": roc_auc(scores[:, 1] - scores[:, 0], label)}, {"roc_auc": 0.5}
    if classes > 5:
        return {"top1_top5": (metrics["top1"] + metrics["top5"]) / 2}, {"top1_top5": 3 / classes}
    return {}, {}


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

    Metrics: top1, top5, mean_per_class, calibration_error, of more than five classes top1_top5 (the mean of both), of two
    classes roc_auc; for sets with several classes an image mean_average_precision and eleven_point_map.

    Args:
        bins: of the calibration error.
        per_template: also measures each template alone, where classes are scored by similarity to prompts.
        measure: the headline, such as "mean_per_class" where a set's authors report that; "" for the first.
    """

    title = "Zero-shot classification"

    def __init__(self, bins: int = 15, per_template: bool = True, measure: str = "") -> None:
        self.bins, self.per_template, self.measure = bins, per_template, measure

    def evaluate(self, subject: Subject) -> Result:
        """Accuracies, calibration and examples; mean average precision where images have several classes."""
        scores = subject.scores()
        classes = scores.values.shape[1]
        if classes < 2:
            raise InputError(f"a set of one class ({subject.dataset.names[0]!r}) tells nothing: give at least two class names")
        if scores.label.ndim == 2:
            return headed(Result(*multilabel_figures(scores.values, scores.label)), self.measure)
        metric = ZeroShotAccuracy(classes)
        metric.update(scores.values, scores.label)
        metrics, confusion = metric.figures()
        metrics["calibration_error"] = calibration_error(scores.values, scores.label, self.bins)
        more, chance = further_figures(metrics, scores.values, scores.label)
        result = Result(
            metrics | more,
            metric.chance | chance,
            (scores.values.argmax(dim=1) == scores.label).float().tolist(),
            {
                "classes": class_accuracies(confusion),
                "confusion": confusion.tolist() if metric.num_classes <= 100 else None,
                "templates": self._templates(subject) if self.per_template and scores.by_similarity else {},
                "reliability": _reliability(scores.values, scores.label, 10),
                **_examples(scores.index, scores.values, scores.label),
            },
        )
        return headed(result, self.measure)

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
