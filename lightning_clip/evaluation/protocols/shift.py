"""Accuracy under distribution shift, and effective robustness beside standard models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.evaluation.corruptions import parse_corruption
from lightning_clip.evaluation.effective_robustness import Line, fit_line, read_reference
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.probe import fit_probe
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["Shift"]

_PROBES = 6
_STRENGTH = 1.0  # of their penalty: they are to be ordinary, not the best
Points = dict[str, list[tuple[float, float]]]


class _Shifted(NamedTuple):
    """One shift: features (N, ...) of its images, its classifier (D, C), and its classes among the set's."""

    features: Features
    classifier: Tensor
    classes: list[int]


@protocols.register("shift")
class Shift(Protocol):
    """Zero-shot accuracy on shifted sets beside that of standard models as accurate (Radford et al. 2021, section 3.3).

    The standard models are those of a table, or linear probes on this model's features, fitted on more and more of the
    training split: models that have seen the set's own distribution. A shifted set may have some of the set's classes only, as
    ImageNet-A and ImageNet-R have 200; both accuracies are then over those classes (Taori et al. 2020).

    Metrics: effective_robustness (mean over shifts, a difference of shares), accuracy (on the set itself, all classes),
    `<shift>/accuracy`, `<shift>/reference` (on the set itself, over the classes of the shift), `<shift>/effective`.

    Args:
        shifted: name -> a corruption such as "gaussian_noise:3", or a set as a suite has it, whose classes are among the
            set's; it is classified among its own classes.
        reference: csv with a row a standard model, a column `reference` and one for each shift; `<shift>/reference` for each
            shift that has some of the classes only; "" fits probes.

    Raises:
        InputError: no shift, or a corruption that does not exist.
    """

    title = "Effective robustness"

    def __init__(self, shifted: Mapping[str, Any] | None = None, reference: str = "") -> None:
        if not shifted:
            raise InputError("shift needs shifted: names with a corruption (gaussian_noise:3) or a set each")
        for spec in shifted.values():
            if isinstance(spec, str) and ":" in spec:
                parse_corruption(spec)
        self.shifted, self.reference = dict(shifted), reference

    def evaluate(self, subject: Subject) -> Result:
        """Accuracy under each shift and what of it is beyond standard models."""
        features = subject.features()
        if features.label.ndim == 2:
            raise InputError("shift is for one class an image: omit it for a multilabel set")
        logits = features.image_features @ subject.classifier()  # (N, D) -> (N, C)
        parts = {name: self._shifted(subject, name, spec) for name, spec in self.shifted.items()}
        found = {
            name: _share(part.features.image_features @ part.classifier, part.features.label) for name, part in parts.items()
        }
        clean = {name: _among(logits, features.label, part.classes, name) for name, part in parts.items()}
        if self.reference:
            everything = {name for name, part in parts.items() if len(set(part.classes)) == logits.shape[1]}
            points = read_reference(self.reference, list(self.shifted), everything)
        else:
            points = _probe_points(subject, features, parts)
        lines = {name: fit_line(points[name]) for name in points}
        effective = {name: lines[name].effective(clean[name], found[name]) for name in found}
        metrics = {"effective_robustness": sum(effective.values()) / len(effective), "accuracy": _share(logits, features.label)}
        for name in found:
            metrics |= {f"{name}/accuracy": found[name], f"{name}/reference": clean[name], f"{name}/effective": effective[name]}
        details = {"points": points, "lines": {name: list(line) for name, line in lines.items()}}
        return Result(metrics, {}, None, details)

    def _shifted(self, subject: Subject, name: str, spec: Any) -> _Shifted:
        if isinstance(spec, str) and ":" in spec:
            classes = list(range(len(subject.dataset.class_names)))
            return _Shifted(subject.features("test", spec), subject.classifier(), classes)
        other, own = subject.other(name, spec), subject.dataset.names
        unknown = [word for word in other.dataset.names if word not in own]
        if unknown:
            raise InputError(f"shifted set {name!r} has a class {unknown[0]!r} that the set lacks: {nearest(unknown[0], own)}")
        return _Shifted(other.features(), other.classifier(), [own.index(word) for word in other.dataset.names])

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models and a figure for each shift."""
        rows: list[tuple[str, ...]] = []
        for model, result in results.items():
            rows.append((f"{model}: the set itself", in_percent(result.metrics["accuracy"]), "", "", ""))
            for name in self.shifted:
                line, clean = Line(*result.details["lines"][name]), result.metrics[f"{name}/reference"]
                cells = (result.metrics[f"{name}/accuracy"], clean, line.expected(clean), result.metrics[f"{name}/effective"])
                rows.append((f"{model}: {name}", *map(in_percent, cells)))
        whose = "the standard models of the table" if self.reference else "linear probes on the same features"
        text = (
            f"In %. Reference: on the set itself, over the classes of the shift. Expected: the line through {whose}, at this "
            "model's reference. Effective: beyond that."
        )
        table = Table(("shift", "accuracy", "reference", "expected", "effective robustness"), rows)
        figures = [(name, _figure(name, results)) for name in self.shifted]
        return [Section("Accuracy under shift", text, table, figures)]


def _share(logits: Tensor, label: Tensor) -> float:
    """Accuracy of logits (N, C)."""
    return float((logits.argmax(dim=1) == label).double().mean())


def _among(logits: Tensor, label: Tensor, classes: Sequence[int], name: str) -> float:
    """Accuracy on the images of some classes, classified among those; logits (N, C) over all."""
    rows = torch.isin(label, torch.tensor(classes, device=label.device))
    if not rows.any():
        raise InputError(
            f"the set has no test image of the classes of shifted set {name!r}, so there is nothing to compare with"
        )
    best = logits[rows][:, list(classes)].argmax(dim=1)  # (M, C) -> (M,) places among the classes
    return float((torch.tensor(classes, device=label.device)[best] == label[rows]).double().mean())


def _probe_points(subject: Subject, test: Features, shifted: Mapping[str, _Shifted]) -> Points:
    """(accuracy on the classes of the shift, accuracy under shift) of probes fitted on more and more of the training split."""
    train, classes = subject.features("train"), len(subject.dataset.class_names)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    points: Points = {name: [] for name in shifted}
    low = min(math.log(2 * classes), math.log(len(train)))
    for step in range(_PROBES):
        many = round(math.exp(low + (math.log(len(train)) - low) * step / (_PROBES - 1)))
        rows = order[:many]
        probe = fit_probe(train.backbone[rows], train.label[rows], classes, _STRENGTH, max_iterations=200)
        clean = probe.logits(test.backbone)
        for name, part in shifted.items():
            under = probe.logits(part.features.backbone)[:, part.classes]
            points[name].append((_among(clean, test.label, part.classes, name), _share(under, part.features.label)))
    return points


def _figure(name: str, results: Mapping[str, Result]) -> Figure:
    """Standard models, their line and the measured models, on logit axes."""
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    grid = [number / 100 for number in range(2, 99)]
    axes.plot(grid, grid, color="#8a8f98", linestyle=":", label="no loss")
    for model, result in results.items():
        x, y = zip(*result.details["points"][name], strict=True)
        line = Line(*result.details["lines"][name])
        (drawn,) = axes.plot(grid, [line.expected(value) for value in grid], linewidth=1)
        axes.scatter(x, y, s=14, color=drawn.get_color(), alpha=0.6)
        star = (result.metrics[f"{name}/reference"], result.metrics[f"{name}/accuracy"])
        axes.scatter(
            *star, s=110, marker="*", color=drawn.get_color(), edgecolors="black", linewidths=0.5, label=model, zorder=3
        )
    axes.set(xscale="logit", yscale="logit", xlim=(0.02, 0.98), ylim=(0.02, 0.98), title=name)
    ticks = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(ticks, [f"{100 * tick:.0f}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.set(xlabel="accuracy on the set, same classes, %", ylabel="under shift, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return figure
