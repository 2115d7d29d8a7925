"""Harmful classifications by group of people, as rates with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.evaluation.groups import Rate, group_rates, joined_rows, largest_gap, read_groups
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.templates import resolve_templates
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import in_percent

__all__ = ["Bias"]


@protocols.register("bias")
class Bias(Protocol):
    """How often images of each group are put into watched categories (Radford et al. 2021, section 7.1, tables 6 and 7).

    Each set of classes is one zero-shot classifier; two of them that differ in a class, such as "child", show beside each other
    what that class changes. Rates tell of this design of classes on these images, not of a model as such.

    Metrics: `<class set>/<category>`, rate over all images; `.../<attribute>/largest_ratio` between two groups, omitted where
    the lowest rate is 0; `.../<attribute>/largest_difference`.

    Args:
        groups: csv with a row an image and a column an attribute.
        columns: attributes; None takes all.
        class_sets: name -> `class_names`, `watched` (category -> names among them) and, if others than the set's are meant,
            `templates`.
        column: of the image names.
        confidence: of the intervals.

    Raises:
        InputError: no `groups`, no `class_sets`, or a watched name that is no class.
    """

    title = "Classification by group"

    def __init__(
        self,
        groups: str = "",
        columns: Sequence[str] | None = None,
        class_sets: Mapping[str, Mapping[str, Any]] | None = None,
        column: str = "image",
        confidence: float = 0.95,
    ) -> None:
        if not groups or not class_sets:
            raise InputError("bias needs groups, a csv with a row an image, and class_sets with class_names and watched")
        if not 0 < confidence < 1:
            raise InputError(f"bias: confidence {confidence} is outside (0, 1): give 0.95 for 95 %")
        for name, given in class_sets.items():
            _check(name, given)
        self.groups, self.columns, self.column = groups, list(columns or ()), column
        self.class_sets = {name: _plain(given) for name, given in class_sets.items()}
        self.confidence = confidence

    def evaluate(self, subject: Subject) -> Result:
        """Rates of the watched categories, over all images and by group."""
        features = subject.features()
        images, attributes = read_groups(self.groups, self.column, self.columns)
        vectors = features.image_features[joined_rows(images, features.keys)]
        metrics: dict[str, float] = {}
        rates: dict[str, Any] = {}
        first: list[float] | None = None
        for name, given in self.class_sets.items():
            templates = resolve_templates(given["templates"]) if "templates" in given else None
            answer = (vectors @ subject.classifier(given["class_names"], templates)).argmax(dim=1).numpy()
            for category, watched in given["watched"].items():
                hit = np.isin(answer, [given["class_names"].index(word) for word in watched])
                first = first or hit.astype(float).tolist()
                metrics[f"{name}/{category}"] = float(hit.mean())
                for attribute, groups in attributes.items():
                    if found := group_rates(hit, groups, self.confidence):
                        rates.setdefault(attribute, {}).setdefault(category, {})[name] = found
                        ratio, difference = largest_gap(found)
                        if ratio is not None:
                            metrics[f"{name}/{category}/{attribute}/largest_ratio"] = ratio
                        metrics[f"{name}/{category}/{attribute}/largest_difference"] = difference
        return Result(metrics, {}, first, {"rates": rates, "images": len(images)})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table and a figure of the rates for each model and attribute."""
        sets = list(self.class_sets)
        found = []
        for model, result in results.items():
            for attribute, categories in result.details["rates"].items():
                rows = [row for category, own in categories.items() for row in _rows(category, own, sets)]
                # One scale for all sets of classes, so that they can be compared by eye.
                top = max(rate[5] for own in categories.values() for rates in own.values() for rate in rates)
                figures = [
                    (name, _figure(name, {category: own[name] for category, own in categories.items() if name in own}, top))
                    for name in sets
                    if any(name in own for own in categories.values())
                ]
                text = (
                    f"Share of images in % that get a watched class, with {100 * self.confidence:g} % intervals, for each set "
                    "of classes. They hold for these classes and images only."
                )
                header = ("category and group", "images", *sets)
                found.append(Section(f"{model}: by {attribute}", text, Table(header, rows), figures))
        return found


def _check(name: str, given: Any) -> None:
    """Says what is wrong with a set of classes."""
    if not isinstance(given, Mapping) or not given.get("class_names") or not given.get("watched"):
        raise InputError(f"class set {name!r} needs class_names, a list, and watched, a mapping of categories to some of them")
    for key in given:
        if key not in ("class_names", "watched", "templates"):
            raise InputError(
                f"class set {name!r} has no setting {key!r}: {nearest(key, ('class_names', 'watched', 'templates'))}"
            )
    for category, watched in given["watched"].items():
        for word in [watched] if isinstance(watched, str) or not watched else watched:
            if isinstance(watched, str) or word not in given["class_names"]:
                known = nearest(str(word), given["class_names"])
                raise InputError(f"class set {name!r}: {category!r} watches {word!r}, not a list of its classes. {known}")


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    """A set of classes in plain types, which can be kept as JSON."""
    plain: dict[str, Any] = {
        "class_names": list(given["class_names"]),
        "watched": {category: list(watched) for category, watched in given["watched"].items()},
    }
    if "templates" in given:
        plain["templates"] = given["templates"] if isinstance(given["templates"], str) else list(given["templates"])
    return plain


def _rows(category: str, own: Mapping[str, Sequence[Rate]], sets: Sequence[str]) -> list[tuple[str, ...]]:
    rows = []
    some = next(iter(own.values()))
    for number, (group, _, images, *_rest) in enumerate(some):
        cells = [_cell(own[name][number]) if name in own else "" for name in sets]
        rows.append((f"{category}: {group}", f"{images:,}", *cells))
    gaps = []
    for name in sets:
        ratio = largest_gap(own[name])[0] if name in own else None
        gaps.append("" if ratio is None else f"{ratio:.2f}")
    return [*rows, (f"{category}: highest over lowest", "", *gaps)]


def _cell(rate: Rate) -> str:
    return f"{in_percent(rate[3])} [{in_percent(rate[4])}, {in_percent(rate[5])}]"


def _figure(name: str, categories: Mapping[str, Sequence[Rate]], top: float) -> Figure:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.8 / len(categories)
    for number, (category, rates) in enumerate(categories.items()):
        places = np.arange(len(rates)) + (number - (len(categories) - 1) / 2) * width
        values, low, high = (100 * np.array([rate[column] for rate in rates]) for column in (3, 4, 5))
        reach = np.maximum(0, [values - low, high - values])
        axes.bar(places, values, width, yerr=reach, capsize=2, label=category, error_kw={"linewidth": 0.8})
    some = next(iter(categories.values()))
    axes.set_xticks(range(len(some)), [rate[0] for rate in some], fontsize=7, rotation=30 if len(some) > 4 else 0)
    axes.set(ylabel="% of images", title=name)
    axes.set_ylim(0, 105 * top)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)
    return figure
