"""WiSE-FT: weights between a model and its fine-tuned form, with their scores on several sets."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_clip.core.errors import InputError
from lightning_clip.merging.merged import whole
from lightning_clip.merging.mixing import Weights, check_alike, interpolate, lasting
from lightning_clip.merging.model_score import measure, score
from lightning_clip.module.clip_module import ClipModule
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.tasks.classifier import ClassifierHead
from lightning_clip.tasks.supervised import classes_of

__all__ = ["Curve", "comparable", "curve_figure", "sweep"]

_TENTHS = tuple(tenth / 10 for tenth in range(11))


def comparable(first: ClipModule, second: ClipModule) -> ClipModule:
    """The first model with the parts that the second has besides its towers.

    A classifier head that only the second has begins as the first one's zero-shot classifier, as WiSE-FT has it.

    Raises:
        InputError: different architectures, tokenizers or classes.
    """
    names = ("the first model", "the second")
    if not isinstance(classes_of(second.objective), ClassifierHead) or classes_of(first.objective) is not None:
        check_alike(first, second, *names)
        return first
    check_alike(first, second, *names, added=("classes.",))
    start = copy.deepcopy(second)
    start.model.load_state_dict(first.model.state_dict(), strict=False)
    head = classes_of(start.objective)
    assert head is not None
    with torch.no_grad():
        head.start_classes(start.predictor, None)
    return start


@dataclass(frozen=True)
class Curve:
    """Scores between two models.

    Attributes:
        alphas: rising, 0 is the first model and 1 the second.
        scores: set -> share in [0, 1] for each alpha.
        chosen_on: the set by which the alpha was chosen.
        measures: set -> what its scores are, as `scoring.measure` calls it.
    """

    alphas: list[float]
    scores: dict[str, list[float]]
    chosen_on: str
    measures: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> int:
        """The place of the best alpha on that set; of equals the one nearest to the middle."""
        values = self.scores[self.chosen_on]
        return max(range(len(values)), key=lambda place: (values[place], -abs(self.alphas[place] - 0.5)))


def sweep(
    first: ClipModule,
    second: ClipModule,
    sets: Mapping[str, EvaluationSet],
    chosen_on: str,
    alphas: Sequence[float] = _TENTHS,
    *,
    prepare: Callable[[ClipModule], None] = lambda module: None,
    score: Callable[[ClipModule, EvaluationSet], float] = score,
) -> tuple[Curve, ClipModule]:
    """Scores on all sets for each alpha, and the model of the alpha that is best on one of them.

    Adapters are merged first: between two pairs of B and A lies another product than between their products.

    Args:
        first: before fine-tuning.
        second: after it.
        sets: labelled or of pairs; one is for choosing and should be no test set.
        chosen_on: its name.
        alphas: in [0, 1].
        prepare: done to each mixed model before it is scored, such as `recalibrate`.
        score: of a model on a set.

    Raises:
        InputError: see `interpolate` and `comparable`.
    """
    if not alphas:
        raise InputError("alphas is empty: give at least one in [0, 1]")
    first, second = whole(first), whole(second)
    start, mixed, places = comparable(first, second), copy.deepcopy(second).eval(), sorted(set(alphas))
    ends = lasting(start), lasting(second)
    found: dict[str, list[float]] = {name: [] for name in sets}
    for alpha in places:
        _set(mixed, ends, alpha, prepare)
        for name, dataset in sets.items():
            found[name].append(score(mixed, dataset))
    curve = Curve(places, found, chosen_on, {name: measure(dataset) for name, dataset in sets.items() if dataset})
    _set(mixed, ends, places[curve.best], prepare)
    return curve, mixed


def _set(module: ClipModule, ends: tuple[Weights, Weights], alpha: float, prepare: Callable[[ClipModule], None]) -> None:
    module.model.load_state_dict(interpolate(*ends, alpha), strict=False)  # what is not mixed stays
    if 0 < alpha < 1:
        prepare(module)


def curve_figure(curve: Curve) -> Figure:
    """Scores over alpha for each set; where there are two besides the one for choosing, also one over the other."""
    kinds = set(curve.measures.values()) or {"top-1"}
    several = {name: f", {kind}" if len(kinds) > 1 else "" for name, kind in curve.measures.items()}
    others = [name for name in curve.scores if name != curve.chosen_on]
    both = len(others) == 2
    figure = Figure(figsize=(9.6 if both else 5.2, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if both else 1, squeeze=False)[0]
    _draw_over_alpha(curve, panels[0], several, kinds, bool(others))
    if both:
        _draw_one_over_the_other(curve, panels[1], others)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure


def _draw_over_alpha(curve: Curve, axes: Any, several: dict[str, str], kinds: set[str], others: bool) -> None:
    """Scores of each set over alpha, and which alpha was chosen."""
    for name, values in curve.scores.items():
        style = ":" if name == curve.chosen_on and others else "-"
        axes.plot(
            curve.alphas,
            [100 * value for value in values],
            style,
            marker="o",
            markersize=3,
            label=f"{name}{several.get(name, '')}",
        )
    chosen = curve.alphas[curve.best]
    axes.axvline(chosen, color="#8a8f98", linestyle="--", linewidth=1, label=f"chosen on {curve.chosen_on}: {chosen:g}")
    axes.set(xlabel="alpha (0: before, 1: after fine-tuning)", ylabel=f"{' or '.join(sorted(kinds))}, %")
    axes.set_title("between two models")
    axes.legend(fontsize=8, frameon=False)


def _draw_one_over_the_other(curve: Curve, axes: Any, others: list[str]) -> None:
    """The two sets that alpha was not chosen on."""
    x, y = ([100 * value for value in curve.scores[name]] for name in others)
    axes.plot(x, y, color="#2e8b57", marker="o", markersize=3)
    labels = {curve.best: f"alpha {curve.alphas[curve.best]:g}", 0: "before", len(x) - 1: "after"}
    for place, label in labels.items():
        axes.annotate(label, (x[place], y[place]), xytext=(4, 4), textcoords="offset points", fontsize=8)
    x_label, y_label = (f"{name} ({curve.measures.get(name, 'top-1')}), %" for name in others)
    axes.set(xlabel=x_label, ylabel=y_label, title="one set over the other")
