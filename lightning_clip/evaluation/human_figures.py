"""Figures of a comparison with people: by class, by agreement and by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from lightning_clip.evaluation.image_grids import picture
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.plots import contact_sheet
from lightning_clip.reporting.text import wrapped

__all__ = ["agreement_bars", "class_scatter", "difference_sheet"]


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
        pixels = picture(dataset.source, place)
        if pixels is not None:
            pictures.append(pixels)
            people, model = (f"{dataset.names[c]} {100 * p:.0f} %" for c, p in ((vote, sure), (answer, probability)))
            texts.append(f"{wrapped('people: ' + people)}\n{wrapped('model: ' + model)}")
    return contact_sheet(pictures, texts) if pictures else None
