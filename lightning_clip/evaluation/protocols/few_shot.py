"""Few-shot learning from k labelled images a class: accuracies of four methods beside zero-shot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import one_hot

from lightning_clip.core.errors import InputError
from lightning_clip.data.few_shot import draw_shots
from lightning_clip.evaluation.probe import fit_probe, search_strength
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.protocols.linear_probe import accuracy, supervised_probe
from lightning_clip.evaluation.tip_adapter import TipAdapter, tune_keys
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["FewShot", "draw_shots", "equivalent_shots"]

_STEPS = 100  # a few images are fitted exactly by weak penalties, at weights that grow for ever
_METHODS = {
    "probe": "linear probe",
    "zero_shot_probe": "probe from zero-shot",
    "tip_adapter": "Tip-Adapter",
    "tip_adapter_f": "Tip-Adapter-F",
}


def equivalent_shots(shots: Sequence[float], accuracies: Sequence[float], zero_shot: float) -> float | None:
    """How many labelled images a class a probe needs to match zero-shot (Radford et al. 2021, figure 7).

    Interpolated linearly over log k; 0 if even the fewest are enough, None if the most are not.

    Args:
        shots: the k, rising; last the images a class of the fully supervised probe, which need not be whole.
        accuracies: of the probe with each k, in [0, 1].
        zero_shot: accuracy in [0, 1].

    Examples:
        >>> round(equivalent_shots([1, 2, 4], [0.2, 0.4, 0.6], 0.5), 6)  # half way between 2 and 4, on a log scale
        2.828427
    """
    if accuracies[0] >= zero_shot:
        return 0.0
    for place in range(1, len(shots)):
        low, high = accuracies[place - 1], accuracies[place]
        if high >= zero_shot:
            share = (zero_shot - low) / (high - low)
            return math.exp(math.log(shots[place - 1]) * (1 - share) + math.log(shots[place]) * share)
    return None


@protocols.register("few_shot")
class FewShot(Protocol):
    """Learning from k images a class, over several draws (Radford et al. 2021, figures 6 and 7).

    Methods: logistic regression on features before the projection; the same on unit features, started at and drawn towards the
    zero-shot classifier; Tip-Adapter and Tip-Adapter-F (Zhang et al. 2021). Settings (L2 strength, alpha, beta) are chosen on
    min(k, 4) further images a class.

    Metrics: `<method>/<k>`, means over the draws. The number of labelled images a class with which the probe matches zero-shot
    is interpolated over log k; where the most shots do not match it, up to the probe on all labelled images (figure 7).

    Args:
        shots: the k.
        seeds: number of draws.
        methods: of probe, zero_shot_probe, tip_adapter, tip_adapter_f.
    """

    title = "Few-shot learning"

    def __init__(
        self, shots: Sequence[int] = (1, 2, 4, 8, 16), seeds: int = 3, methods: Sequence[str] = tuple(_METHODS)
    ) -> None:
        unknown = [name for name in methods if name not in _METHODS]
        if unknown or not methods or not shots or min(shots) < 1 or seeds < 1:
            raise InputError(f"few_shot needs methods of {', '.join(_METHODS)} (got {list(methods)}), shots and seeds from 1")
        self.shots, self.seeds, self.methods = sorted(shots), seeds, list(methods)

    def evaluate(self, subject: Subject) -> Result:
        """Accuracy of each method with each number of shots, over the draws."""
        test, classifier = subject.features(), subject.classifier()
        if test.label.ndim == 2:
            raise InputError("few_shot is for one class an image: omit it for a multilabel set")
        classes = classifier.shape[1]
        scores = subject.scores()
        zero_shot = float((scores.values.argmax(dim=1) == scores.label).double().mean())
        found: dict[str, list[list[float]]] = {name: [] for name in self.methods}
        for shots in self.shots:
            right = self._drawn(subject, classifier, shots)
            for name in self.methods:
                found[name].append([float(draw.double().mean()) for draw in right[name]])
        last = self.methods[-1]
        order = [last, *(name for name in self.methods if name != last)]
        means = {name: [sum(values) / len(values) for values in found[name]] for name in order}
        metrics = {
            f"{name}/{shots}": mean
            for name in order
            for shots, mean in reversed(list(zip(self.shots, means[name], strict=True)))
        }
        details = {"shots": self.shots, "curves": found, "zero_shot": zero_shot}
        if "probe" in means:
            details |= self._equivalent(subject, means["probe"], zero_shot)
        # The headline is the last method's with the most shots: of each image the share of draws that got it right.
        per_image = sum((draw.float() / self.seeds for draw in right[last]), torch.zeros(len(test)))
        return Result(metrics, dict.fromkeys(metrics, 1 / classes), per_image.tolist(), details)

    def _equivalent(self, subject: Subject, means: Sequence[float], zero_shot: float) -> dict[str, Any]:
        """Shots that equal zero-shot, and where all of them fall short, [images a class, accuracy] of the supervised probe."""
        equal = equivalent_shots(self.shots, means, zero_shot)
        if equal is not None:
            return {"equivalent_shots": equal, "supervised": None}
        probe, _, many = supervised_probe(subject)
        test = subject.features()
        last = [many / len(subject.dataset.class_names), accuracy(probe, test.backbone, test.label)]
        equal = equivalent_shots([*self.shots, last[0]], [*means, last[1]], zero_shot)
        return {"equivalent_shots": equal, "supervised": last}

    def _drawn(self, subject: Subject, classifier: Tensor, shots: int) -> dict[str, list[Tensor]]:
        """Of each method and draw, which test images it got right, bool (N,)."""
        test, train, classes = subject.features(), subject.features("train"), classifier.shape[1]
        right: dict[str, list[Tensor]] = {name: [] for name in self.methods}
        for seed in range(self.seeds):
            rows, held = draw_shots(train.label, shots, classes, seed)
            few, val = train.subset(rows), train.subset(held)
            for name in self.methods:
                predicted = _PREDICT[name](few, val, test, classifier, subject.scale, classes)
                right[name].append(predicted == test.label)
        return right

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table and a figure for each model."""
        found = []
        for name, result in results.items():
            details = result.details
            rows = [(_METHODS[method], *(_spread(values) for values in curves)) for method, curves in details["curves"].items()]
            rows.append(("zero-shot", *(in_percent(details["zero_shot"]) for _ in details["shots"])))
            header = ("top-1 in %, mean and deviation", *(f"{shots} a class" for shots in details["shots"]))
            text = _equal(details) if "probe" in details["curves"] else ""
            found.append(Section(f"{name}: few-shot", text, Table(header, rows), [("few-shot", _figure(details))]))
        return found


def _probe(few: Any, val: Any, test: Any, classifier: Tensor, scale: float, classes: int) -> Tensor:
    search = search_strength(
        lambda strength, start: fit_probe(few.backbone, few.label, classes, strength, start=start, max_iterations=_STEPS),
        lambda probe: accuracy(probe, val.backbone, val.label) if len(val) else 0.0,
        steps_per_decade=1,
    )
    return search.probe.predict(test.backbone)


def _zero_shot_probe(few: Any, val: Any, test: Any, classifier: Tensor, scale: float, classes: int) -> Tensor:
    anchor = scale * classifier
    search = search_strength(
        lambda strength, start: fit_probe(
            few.image_features, few.label, classes, strength, start=start, towards=anchor, max_iterations=_STEPS
        ),
        lambda probe: accuracy(probe, val.image_features, val.label) if len(val) else 0.0,
        steps_per_decade=1,
    )
    return search.probe.predict(test.image_features)


def _tip(few: Any, val: Any, test: Any, classifier: Tensor, scale: float, classes: int) -> Tensor:
    return _adapted(few.image_features, few, val, test, classifier, scale)


def _tip_f(few: Any, val: Any, test: Any, classifier: Tensor, scale: float, classes: int) -> Tensor:
    return _adapted(tune_keys(few.image_features, few.label, classifier, scale), few, val, test, classifier, scale)


def _adapted(keys: Tensor, few: Any, val: Any, test: Any, classifier: Tensor, scale: float) -> Tensor:
    values = one_hot(few.label, classifier.shape[1]).to(classifier)
    if len(val):
        adapter = TipAdapter.searched(keys, values, val.image_features, val.label, classifier, scale)
    else:
        adapter = TipAdapter(keys, values, 1.0, 5.5)  # the authors' defaults
    return adapter.predict(test.image_features, classifier, scale)


_PREDICT = {"probe": _probe, "zero_shot_probe": _zero_shot_probe, "tip_adapter": _tip, "tip_adapter_f": _tip_f}


def _spread(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1))
    return f"{in_percent(mean)} ± {in_percent(deviation)}"


def _equal(details: Mapping[str, Any]) -> str:
    shots, supervised = details["equivalent_shots"], details["supervised"]
    if shots is None:
        many, reached = supervised
        return (
            f"A linear probe on all labelled images ({many:.1f} a class) reaches {in_percent(reached)} % and does not match "
            "zero-shot."
        )
    needed = f"fewer than {details['shots'][0]}" if shots == 0 else f"about {shots:.1f}"
    return f"A linear probe matches zero-shot with {needed} labelled images a class."


def _figure(details: Any) -> Figure:
    figure = Figure(figsize=(5.6, 3.6), layout="constrained")
    axes = figure.add_subplot()
    shots = details["shots"]
    for method, curves in details["curves"].items():
        means = [100 * sum(values) / len(values) for values in curves]
        lows, highs = ([100 * pick(values) for values in curves] for pick in (min, max))
        (line,) = axes.plot(shots, means, marker="o", markersize=3, label=_METHODS[method])
        axes.fill_between(shots, lows, highs, color=line.get_color(), alpha=0.12, linewidth=0)
    axes.axhline(100 * details["zero_shot"], color="#8a8f98", linestyle="--", label="zero-shot")
    axes.set_xscale("log", base=2)
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.set(xlabel="labelled images a class", ylabel="top-1, %", title="few-shot (bands: lowest and highest draw)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure
