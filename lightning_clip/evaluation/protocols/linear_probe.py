"""Linear probe (Radford et al. 2021, A.3): accuracy of a linear classifier on features before the projection."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.multilabel import class_average_precision, multilabel_figures
from lightning_clip.evaluation.probe import Probe, SearchResult, fit_probe, search_strength, stratified_split
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, headed, protocols
from lightning_clip.evaluation.protocols.zero_shot import further_figures
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import percent

__all__ = ["LinearProbe"]

_TOLERANCE = 1e-7
_SEARCH_TOLERANCE = 1e-5  # classes that can be separated exactly are fitted for ever, and no prediction changes


@protocols.register("linear_probe")
class LinearProbe(Protocol):
    """Logistic regression on frozen features, its L2 strength found on a validation split, refitted on both splits.

    Metrics: top1, mean_per_class, of more than five classes top5 and top1_top5 (the mean of both), of two classes roc_auc. For
    sets with several classes an image a binary probe of each class: mean_average_precision, eleven_point_map.

    Args:
        max_iterations: of L-BFGS.
        validation_share: of the training split, where the set has no validation split.
        seed: of that share.
        measure: the headline, such as "mean_per_class" where a set's authors report that; "" for the first.
    """

    title = "Linear probe"

    def __init__(self, max_iterations: int = 1000, validation_share: float = 0.2, seed: int = 0, measure: str = "") -> None:
        self.max_iterations, self.validation_share, self.seed, self.measure = max_iterations, validation_share, seed, measure

    def evaluate(self, subject: Subject) -> Result:
        """Accuracy of the probe with the best strength, refitted on both splits."""
        test = subject.features()
        probe, search, many = supervised_probe(subject, self.max_iterations, self.validation_share, self.seed)
        details = {"strength": search.strength, "tried": [[key, value] for key, value in search.tried.items()], "train": many}
        logits = probe.logits(test.backbone)  # (N, C)
        if test.label.ndim == 2:
            metrics, chance = multilabel_figures(logits, test.label)
            return headed(Result(metrics, chance, None, details), self.measure)
        metrics, chance = _figures(logits, test.label)
        right = (logits.argmax(dim=1) == test.label).float().tolist()
        return headed(Result(metrics, chance, right, details), self.measure)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models and the search of the strength."""
        first = next(iter(next(iter(results.values())).metrics))
        rows = [
            (name, percent(result.metrics[first]), f"{result.details['strength']:.3g}", f"{result.details['train']:,}")
            for name, result in results.items()
        ]
        table = Table(("model", first, "L2 strength", "labelled images"), rows)
        return [Section("Linear probe", "Strengths tried and their figure on the validation split.", table,
                        [("strength", _figure(results))])]  # fmt: skip


def supervised_probe(
    subject: Subject, max_iterations: int = 1000, validation_share: float = 0.2, seed: int = 0
) -> tuple[Probe, SearchResult, int]:
    """The probe on all labelled images, the search of its strength, and how many images those were.

    Args:
        subject: a model with a set that has a training split.
        max_iterations: of L-BFGS.
        validation_share: of the training split, where the set has no validation split.
        seed: of that share.

    Raises:
        InputError: no training split, or one of a single class.
    """
    test, train = subject.features(), subject.features("train")
    several = train.label.ndim == 2
    classes = train.label.shape[1] if several else int(max(train.label.max(), test.label.max())) + 1
    if not several and len(torch.unique(train.label)) < 2:
        raise InputError("the training split has one class only: a probe needs at least two")
    if subject.dataset.val is not None:
        val = subject.features("val")
        inputs, labels = torch.cat([train.backbone, val.backbone]), torch.cat([train.label, val.label])
        rows = torch.arange(len(train)), torch.arange(len(train), len(labels))
    else:
        inputs, labels = train.backbone, train.label
        rows = stratified_split(torch.zeros(len(labels)) if several else labels, validation_share, seed)

    def fit(part: Tensor | slice, strength: float, start: Probe | None, tolerance: float) -> Probe:
        options = {"max_iterations": max_iterations, "tolerance": tolerance}
        return fit_probe(inputs[part], labels[part], classes, strength, start=start, **options)  # type: ignore[arg-type]

    search = search_strength(
        lambda strength, start: fit(rows[0], strength, start, _SEARCH_TOLERANCE),
        lambda probe: (
            class_average_precision(probe.logits(inputs[rows[1]]), labels[rows[1]])
            if several
            else accuracy(probe, inputs[rows[1]], labels[rows[1]])
        ),
    )
    return fit(slice(None), search.strength, search.probe, _TOLERANCE), search, len(labels)


def accuracy(probe: Probe, features: Tensor, label: Tensor) -> float:
    """Share of images whose class is predicted, in [0, 1].

    Args:
        probe: fitted.
        features: (N, W).
        label: int64 (N,).
    """
    return float((probe.predict(features) == label).double().mean())


def _figures(logits: Tensor, label: Tensor) -> tuple[dict[str, float], dict[str, float]]:
    """Measures of one class an image, and what guessing gives."""
    right, classes = logits.argmax(dim=1) == label, logits.shape[1]
    per_class = [float(right[label == c].float().mean()) for c in torch.unique(label)]
    metrics = {"top1": float(right.float().mean()), "mean_per_class": sum(per_class) / len(per_class)}
    chance = dict.fromkeys(metrics, 1 / classes)
    if classes > 5:
        metrics["top5"] = float((logits.topk(5, dim=1).indices == label[:, None]).any(dim=1).float().mean())
        chance["top5"] = 5 / classes
    more, guessed = further_figures(metrics, logits, label)
    return metrics | more, chance | guessed


def _figure(results: Mapping[str, Result]) -> Figure:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, result in results.items():
        strengths, values = zip(*result.details["tried"], strict=True)
        axes.plot(strengths, [100 * value for value in values], marker="o", markersize=3, label=name)
    axes.set(xscale="log", xlabel="L2 strength", ylabel="validation accuracy, %", title="search of the strength")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
