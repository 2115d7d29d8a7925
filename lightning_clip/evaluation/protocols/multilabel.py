"""Findings: each of several classes of a picture by itself, by a prompt for it against one that denies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc, binary_average_precision, binary_roc

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent, percent

__all__ = ["Multilabel", "area_under_roc", "average_precision", "pair_probabilities"]

_POINTS = 64  # of a curve in the report
_CURVES = 8  # findings whose curves are drawn
_SPLITS = ("auroc/", "average_precision/")


def pair_probabilities(image: Tensor, positive: Tensor, negative: Tensor, scale: float) -> Tensor:
    """Probabilities (N, C) that an image has each class: softmax over "X" and "no X", averaged over the pairs of templates.

    Args:
        image: unit features (N, D).
        positive: unit features (T, C, D) of each template with each class.
        negative: the same (T, C, D) of the templates that deny it.
        scale: inverse temperature.
    """
    image = image.double()
    yes, no = (torch.einsum("nd,tcd->tnc", image, prompts.to(image)) for prompts in (positive, negative))  # (T, N, C)
    found: Tensor = torch.sigmoid(scale * (yes - no)).mean(dim=0)  # (N, C); a softmax over two is a sigmoid of their difference
    return found


def area_under_roc(scores: Tensor, truth: Tensor) -> float | None:
    """Area under the ROC curve, None where all images or none have the class.

    Args:
        scores: (N,), higher for likelier, of any range.
        truth: int64 (N,) of 0 and 1, or -1 where an image does not count.
    """
    scores, truth = scores[truth >= 0], truth[truth >= 0]
    return None if len(torch.unique(truth)) < 2 else float(binary_auroc(_ranks(scores), truth))


def average_precision(scores: Tensor, truth: Tensor) -> float | None:
    """Average precision, None where no image has the class.

    Args:
        scores: (N,), higher for likelier, of any range.
        truth: int64 (N,) of 0 and 1, or -1 where an image does not count.
    """
    scores, truth = scores[truth >= 0], truth[truth >= 0]
    return None if not truth.any() else float(binary_average_precision(_ranks(scores), truth))


def _ranks(scores: Tensor) -> Tensor:
    """Scores -> [0, 1] in the same order, ties included: torchmetrics takes what is outside for logits, and rounds it."""
    places: Tensor = torch.unique(scores.double(), return_inverse=True)[1].double()
    return places / places.max().clamp(min=1)


@protocols.register("multilabel")
class Multilabel(Protocol):
    """Whether a picture has each of several findings, zero-shot (Tiu et al. 2022, CheXzero).

    The probability of a finding is a softmax over two prompts, "X" and "no X"; with several templates it is averaged over the
    pairs. Findings that all pictures have, or none, have no ROC curve and do not count in the mean.

    Metrics: auroc and mean_average_precision over findings, auroc_alone for the prompt without its denial, then auroc/<name>
    and average_precision/<name>.

    Args:
        positive: templates with {} for a finding.
        negative: as many templates that deny it.

    Raises:
        InputError: templates without {}, or not as many of each.
    """

    title = "Findings"

    def __init__(self, positive: Sequence[str] = ("{}",), negative: Sequence[str] = ("no {}",)) -> None:
        for name, given in (("positive", positive), ("negative", negative)):
            if isinstance(given, str) or not given or not all("{}" in template for template in given):
                raise InputError(f"multilabel: {name} {given!r} must be a list of templates with {{}}, such as ['no {{}}']")
        if len(positive) != len(negative):
            raise InputError(f"multilabel: {len(positive)} positive and {len(negative)} negative templates are no pairs")
        self.positive, self.negative = list(positive), list(negative)

    def evaluate(self, subject: Subject) -> Result:
        """Probabilities of all findings, and how well each ranks the pictures."""
        features = subject.features()
        if features.label.ndim != 2:
            raise InputError("multilabel is for several classes an image: set multilabel: true in the evaluation set")
        names = subject.dataset.names
        prompts = [subject.template_vectors(subject.dataset.class_names, own) for own in (self.positive, self.negative)]
        image = features.image_features.cpu()
        chances = pair_probabilities(image, prompts[0].cpu(), prompts[1].cpu(), subject.scale)  # (N, C)
        alone = torch.einsum("nd,tcd->nc", image.double(), prompts[0].cpu().double())  # (N, C)
        truth = features.label.cpu()
        areas = {name: area_under_roc(chances[:, c], truth[:, c]) for c, name in enumerate(names)}
        without = [area_under_roc(alone[:, c], truth[:, c]) for c in range(len(names))]
        precisions = {name: average_precision(chances[:, c], truth[:, c]) for c, name in enumerate(names)}
        if not _known(areas.values()):
            raise InputError("multilabel: no finding is there in some images and absent in others: there is nothing to rank")
        metrics = {
            "auroc": _mean(areas.values()),
            "mean_average_precision": _mean(precisions.values()),
            "auroc_alone": _mean(without),
            **{f"auroc/{name}": value for name, value in areas.items() if value is not None},
            **{f"average_precision/{name}": value for name, value in precisions.items() if value is not None},
        }
        shares = {name: float(truth[:, c].double().mean()) for c, name in enumerate(names)}
        chance = {"auroc": 0.5, "auroc_alone": 0.5, "mean_average_precision": _mean(v for v in shares.values() if v)}
        curves = {name: _curve(chances[:, c], truth[:, c]) for c, name in enumerate(names) if areas[name] is not None}
        return Result(metrics, chance, None, {"shares": shares, "images": len(image), "curves": curves})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all findings for each model, and curves."""
        found = []
        for name, result in results.items():
            details = result.details
            rows = [
                (finding, percent(share), *(_cell(result, f"{kind}{finding}") for kind in _SPLITS))
                for finding, share in details["shares"].items()
            ]
            rows.append(("mean", "", percent(result.metrics["auroc"]), percent(result.metrics["mean_average_precision"])))
            text = (
                f"{details['images']:,} images. The mean AUROC is {in_percent(result.metrics['auroc'])} %, and "
                f"{in_percent(result.metrics['auroc_alone'])} % by the prompts without those that deny them."
            )
            table = Table(("finding", "share of images", "AUROC", "average precision"), rows)
            found.append(Section(f"{name}: findings", text, table, [("ROC curves", _figure(details["curves"]))]))
        return found


def _known(values: Any) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Any) -> float:
    known = _known(values)
    return sum(known) / len(known)


def _cell(result: Result, key: str) -> str:
    return percent(result.metrics[key]) if key in result.metrics else "no images"


def _curve(scores: Tensor, truth: Tensor) -> list[list[float]]:
    """At most so many points [false positives, true positives] of an ROC curve."""
    false, true, _ = binary_roc(_ranks(scores), truth)
    chosen = torch.linspace(0, len(false) - 1, min(_POINTS, len(false))).round().long()
    return [[round(float(x), 4), round(float(y), 4)] for x, y in zip(false[chosen], true[chosen], strict=True)]


def _figure(curves: Mapping[str, list[list[float]]]) -> Figure:
    figure = Figure(figsize=(4.6, 3.8), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 100], [0, 100], color="#8a8f98", linestyle=":")
    for name, points in list(curves.items())[:_CURVES]:
        axes.plot([100 * x for x, _ in points], [100 * y for _, y in points], linewidth=1.2, label=name)
    axes.set(xlabel="false positives, %", ylabel="true positives, %", title="ROC", xlim=(0, 100), ylim=(0, 101))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
