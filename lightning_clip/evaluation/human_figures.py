"""Figures of a comparison with people: by class, by agreement and by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_clip.evaluation.image_grids import picture
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["agreement_bars", "class_scatter", "difference_sheet", "hardest_classes"]

_PEOPLE = ("#4a7fb5", "#d98a2b", "#8c5fa8")  # as many colours as the paper's study has tables


def class_scatter(classes: Sequence[Any], names: Sequence[str]) -> Figure:
    """Accuracy of people and of the model on each class.

    Args:
        classes: class numbers, accuracies of people, accuracies of the model, in [0, 1].
        names: of all classes, by number.
    """
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    numbers, people, model = classes
    axes.scatter([100 * value for value in people], [100 * value for value in model], color="#2e8b57", s=18)
    for number, x, y in zip(numbers, people, model, strict=True):
        axes.annotate(names[number], (100 * x, 100 * y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="people, %", ylabel="model, %", title="accuracy by class")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def hardest_classes(tables: Mapping[str, Mapping[str, Any]], names: Sequence[str], shown: int = 40) -> Figure:
    """Accuracy of people and of the model on each class, hardest for the model last (Radford et al. 2021, figure 16).

    Args:
        tables: name -> with "classes": class numbers, accuracies of people, accuracies of the model, in [0, 1]; one table or
            more, such as zero-shot and one-shot answers.
        names: of all classes, by number.
        shown: classes at most, spread from the easiest to the hardest.
    """
    of_model = {c: y for details in tables.values() for c, y in zip(details["classes"][0], details["classes"][2], strict=True)}
    order = sorted(of_model, key=lambda c: (-of_model[c], c))
    if len(order) > shown:
        order = [order[round(place * (len(order) - 1) / (shown - 1))] for place in range(shown)]
    figure = Figure(figsize=(max(5.6, 1.6 + 0.22 * len(order)), 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([100 * of_model[c] for c in order], color="#2e8b57", marker="o", markersize=3, label="model")
    for (table, details), colour in zip(tables.items(), _PEOPLE * len(tables), strict=False):
        people = dict(zip(details["classes"][0], details["classes"][1], strict=True))
        values = [100 * people[c] if c in people else float("nan") for c in order]
        axes.plot(values, color=colour, marker="o", markersize=3, label=f"people, {table}" if table else "people")
    axes.set_xticks(range(len(order)), [names[c] for c in order], rotation=90, fontsize=7)
    axes.set(ylabel="accuracy, %", title="what is hard for the model, and for people", ylim=(-2, 102))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def agreement_bars(rows: Sequence[Sequence[Any]]) -> Figure:
    """Accuracy of the model where so many people agree.

    Args:
        rows: [words, accuracy in [0, 1], images] each.
    """
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    words = [f"{words}\n{images:,} images" for words, _, images in rows]
    axes.bar(words, [100 * value for _, value, _ in rows], color="#4a7fb5")
    axes.set(ylabel="accuracy of the model, %", title="by share of people who agree", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7)
    return figure


def difference_sheet(dataset: EvaluationSet, examples: Sequence[Sequence[Any]]) -> Figure | None:
    """Images with both answers; None if no image can be read.

    Args:
        dataset: where they are.
        examples: [place, people's class, its share, the model's class, its probability] each.
    """
    pictures, texts = [], []
    for place, vote, sure, answer, probability in examples:
        pixels = picture(dataset.source, place, dataset.reading)
        if pixels is not None:
            pictures.append(pixels)
            people, model = (f"{dataset.names[c]} {100 * p:.0f} %" for c, p in ((vote, sure), (answer, probability)))
            texts.append(f"{wrapped('people: ' + people)}\n{wrapped('model: ' + model)}")
    return contact_sheet(pictures, texts) if pictures else None
