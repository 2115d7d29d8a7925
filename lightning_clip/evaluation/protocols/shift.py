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
from lightning_clip.evaluation.effective_robustness import STANDARD_MODELS, Line, fit_line, read_reference
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.probe import fit_probe
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.scores import Scores
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["Shift"]

_PROBES = 6
_STRENGTH = 1.0  # of their penalty: they are to be ordinary, not the best
Points = dict[str, list[tuple[float, float]]]


class _Shifted(NamedTuple):
    """One shift: features (N, ...) of its images, their scores (N, C), and for each of its classes those of the set."""

    features: Features
    scores: Scores
    classes: list[list[int]]


@protocols.register("shift")
class Shift(Protocol):
    """Zero-shot accuracy on shifted sets beside that of standard models as accurate (Radford et al. 2021, section 3.3).

    The standard models are those of a table, or linear probes on this model's features, fitted on more and more of the
    training split: models that have seen the set's own distribution. A shifted set may have some of the set's classes only, as
    ImageNet-A and ImageNet-R have 200; both accuracies are then over those classes (Taori et al. 2020).

    Metrics: effective_robustness (mean over shifts, a difference of shares), accuracy (on the set itself, all classes),
    `<shift>/accuracy`, `<shift>/reference` (on the set itself, over the classes of the shift), `<shift>/effective`; without
    standard models `<shift>/gap`, the loss from reference to accuracy, in the place of all that is effective.

    Args:
        shifted: name -> a corruption such as "gaussian_noise:3", or a set as a suite has it, whose classes are among the
            set's; it is classified among its own classes.
        reference: csv with a row a standard model, a column `reference` and one for each shift; `<shift>/reference` for each
            shift that has some of the classes only; "" fits probes; "none" has no standard models and compares with the set
            itself alone; "published" takes those of `standard_models.csv` in this package, for ImageNet's shifts by the names
            v2, a, r and sketch.

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
        logits = subject.scores().values  # (N, C)
        parts = {name: self._shifted(subject, name, spec) for name, spec in self.shifted.items()}
        found = {name: _share(part.scores.values, part.scores.label) for name, part in parts.items()}
        clean = {name: _among(logits, features.label, part.classes, name) for name, part in parts.items()}
        points = self._points(subject, features, parts, logits.shape[1])
        lines = {name: fit_line(points[name]) for name in points}
        effective = {name: lines[name].effective(clean[name], found[name]) for name in lines}
        own = {"accuracy": _share(logits, features.label)}
        if effective:
            metrics = {"effective_robustness": sum(effective.values()) / len(effective), **own}
        else:
            metrics = {"shifted_accuracy": sum(found.values()) / len(found), **own}
        for name in found:
            metrics |= {f"{name}/accuracy": found[name], f"{name}/reference": clean[name]}
            metrics |= {f"{name}/effective": effective[name]} if name in lines else {f"{name}/gap": clean[name] - found[name]}
        details = {"points": points, "lines": {name: list(line) for name, line in lines.items()}}
        return Result(metrics, {}, None, details)

    def _points(self, subject: Subject, features: Features, parts: Mapping[str, _Shifted], classes: int) -> Points:
        """Standard models of each shift, none where none are wanted."""
        if self.reference == "none":
            return {}
        if not self.reference:
            return _probe_points(subject, features, parts)
        path = str(STANDARD_MODELS) if self.reference == "published" else self.reference
        everything = {name for name, part in parts.items() if len({c for own in part.classes for c in own}) == classes}
        return read_reference(path, list(self.shifted), everything)

    def _shifted(self, subject: Subject, name: str, spec: Any) -> _Shifted:
        if isinstance(spec, str) and ":" in spec:
            classes = [[number] for number in range(len(subject.dataset.class_names))]
            return _Shifted(subject.features("test", spec), subject.scores(corruption=spec), classes)
        other, own = subject.other(name, spec), subject.dataset.names
        classes = _classes_in(other.dataset, own, name)  # before anything is computed
        return _Shifted(other.features(), other.scores(), classes)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models and a figure for each shift."""
        rows: list[tuple[str, ...]] = []
        for model, result in results.items():
            rows.append((f"{model}: the set itself", in_percent(result.metrics["accuracy"]), "", "", ""))
            for name in self.shifted:
                rows.append((f"{model}: {name}", *_cells(result, name)))
        drawn = [name for name in self.shifted if any(name in result.details["lines"] for result in results.values())]
        whose = "the standard models of the table" if self.reference else "linear probes on the same features"
        text = (
            f"In %. Reference: on the set itself, over the classes of the shift. Expected: the line through {whose}, at this "
            "model's reference. Effective: beyond that."
            if drawn
            else "In %. Reference: on the set itself, over the classes of the shift."
        )
        table = Table(("shift", "accuracy", "reference", "expected", "effective robustness"), rows)
        figures = [(name, _figure(name, results)) for name in drawn]
        return [Section("Accuracy under shift", text, table, figures)]


def _share(logits: Tensor, label: Tensor) -> float:
    """Accuracy of logits (N, C)."""
    return float((logits.argmax(dim=1) == label).double().mean())


def _classes_in(shifted: EvaluationSet, own: Sequence[str], name: str) -> list[list[int]]:
    """For each class of a shifted set the classes of the set itself, as it says, or by name."""
    if shifted.parents is not None:
        if max(place for places in shifted.parents for place in places) >= len(own):
            raise InputError(f"shifted set {name!r} is one of ImageNet's, and the set has {len(own)} classes: give imagenet")
        return [list(places) for places in shifted.parents]
    unknown = [word for word in shifted.names if word not in own]
    if unknown:
        raise InputError(f"shifted set {name!r} has a class {unknown[0]!r} that the set lacks: {nearest(unknown[0], own)}")
    return [[own.index(word)] for word in shifted.names]


def _among(logits: Tensor, label: Tensor, classes: Sequence[Sequence[int]], name: str) -> float:
    """Accuracy on the images of some classes, classified among those; logits (N, C) over all.

    A class that stands for several of the set's has the highest of their scores.
    """
    owner = torch.full((logits.shape[1],), -1, device=label.device)
    for number, places in enumerate(classes):
        owner[list(places)] = number
    rows = owner[label] >= 0
    if not rows.any():
        raise InputError(
            f"the set has no test image of the classes of shifted set {name!r}, so there is nothing to compare with"
        )
    best = _merged(logits[rows], classes).argmax(dim=1)  # (M, G) -> (M,)
    return float((best == owner[label[rows]]).double().mean())


def _merged(logits: Tensor, classes: Sequence[Sequence[int]]) -> Tensor:
    """Scores (N, C) -> (N, G): of each group of classes the highest."""
    if all(len(places) == 1 for places in classes):
        return logits[:, [places[0] for places in classes]]
    return torch.stack([logits[:, list(places)].max(dim=1).values for places in classes], dim=1)


def _cells(result: Result, name: str) -> tuple[str, ...]:
    """Accuracy, reference, expected and effective of a shift; the last two empty where it has no standard models."""
    clean, under = result.metrics[f"{name}/reference"], result.metrics[f"{name}/accuracy"]
    if name not in result.details["lines"]:
        return (in_percent(under), in_percent(clean), "", "")
    expected = Line(*result.details["lines"][name]).expected(clean)
    return (*map(in_percent, (under, clean, expected, result.metrics[f"{name}/effective"])),)


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
            under = _merged(probe.logits(part.features.backbone), part.classes)
            points[name].append((_among(clean, test.label, part.classes, name), _share(under, part.features.label)))
    return points


def _figure(name: str, results: Mapping[str, Result]) -> Figure:
    """Standard models, their line and the measured models, on logit axes."""
    figure = Figure(figsize=(4.6, 4.0), layout="constrained")
    axes = figure.add_subplot()
    grid = [number / 100 for number in range(2, 99)]
    axes.plot(grid, grid, color="#8a8f98", linestyle=":", label="no loss")
    for model, result in results.items():
        if name not in result.details["lines"]:
            continue
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
