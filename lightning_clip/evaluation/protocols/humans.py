"""Comparison with humans: how many people chose each class arrives beside a model's probabilities, agreement leaves."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.errors import InputError, existing_path
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.figures import contact_sheet
from lightning_clip.evaluation.pictures import picture, wrapped
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.report import Section, Table
from lightning_clip.prompts.evaluation_sets import EvaluationSet

__all__ = ["Humans", "correlation", "divergence", "ranked", "read_counts"]

_BINS = (0.0, 0.6, 0.8, 0.95, 1.0)


def read_counts(path: str, column: str, class_names: list[str], features: Features) -> Tensor:
    """How many people chose each class, float64 (N, C), in the order of the features.

    Args:
        path: csv with a column of image names and one for each class.
        column: of the image names; they are the keys of the set, or its file names where these are unique.
        class_names: in the order of the labels.
        features: of the set.

    Raises:
        InputError: a missing file or column, an image without a row, or one that nobody judged.
    """
    with existing_path(path, "human counts").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    missing = [name for name in (column, *class_names) if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"human counts {path!r} have no column {missing[0]!r}: they need {column!r} and one for each class")
    found = {row[column]: [float(row[name]) for name in class_names] for row in rows}
    if any(key not in found for key in features.keys):
        found = {PurePosixPath(key).name: value for key, value in found.items()}
        if len(found) < len(rows):
            found = {}
    keys = [key if key in found else PurePosixPath(key).name for key in features.keys]
    absent = [key for key in keys if key not in found]
    if absent:
        raise InputError(f"human counts {path!r} lack {len(absent)} of {len(keys)} images, the first is {absent[0]!r}")
    counts = torch.tensor([found[key] for key in keys], dtype=torch.float64)
    if (counts.sum(dim=1) <= 0).any():
        raise InputError(f"nobody judged image {keys[int((counts.sum(dim=1) <= 0).nonzero()[0])]!r}: leave it out")
    return counts


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of rows of probabilities (N, C), in bits: 0 for equal ones, 1 for disjoint ones; (N,)."""
    middle = (first + second) / 2
    parts = [(torch.xlogy(part, part) - torch.xlogy(part, middle)).sum(dim=1) for part in (first, second)]
    found: Tensor = (parts[0] + parts[1]) / 2 / _LN2
    return found


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's, in [-1, 1]; None where one of them does not vary. Of `ranked` values it is Spearman's."""
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 1e-12 else None


def ranked(values: Tensor) -> Tensor:
    """Ranks float64 (N,), equal values sharing their mean rank."""
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[which]
    return ranks


@protocols.register("humans")
class Humans(Protocol):
    """What is hard for people is hard for CLIP (Radford et al. 2021, section 4.4 and figure 8).

    Metrics: model, people (mean over all answers), majority (of the most frequent answer, ties to the lower class), difficulty
    (correlation of class accuracies, Pearson), uncertainty (Spearman correlation of the entropies of people's answers and of
    the model's probabilities, per image), cross_entropy (nats, of the model under people's answers), divergence (mean, bits).

    Args:
        counts: csv with a row an image and a column a class: how many people chose it.
        column: of the image names.
        examples: pictures to show.

    Raises:
        InputError: no `counts` given.
    """

    title = "Comparison with people"

    def __init__(self, counts: str = "", column: str = "image", examples: int = 16) -> None:
        if not counts:
            raise InputError("humans needs counts: a csv with a row an image and a column a class")
        self.counts, self.column, self.examples = counts, column, examples

    def evaluate(self, subject: Subject) -> Result:
        features, classifier = subject.features(), subject.classifier()
        counts = read_counts(self.counts, self.column, subject.dataset.names, features)
        people = counts / counts.sum(dim=1, keepdim=True)
        log_model = torch.log_softmax((subject.scale * features.image_features @ classifier).double(), dim=1)
        model, label = log_model.exp(), features.label
        answer, vote = model.argmax(dim=1), people.argmax(dim=1)
        right, agreed = (answer == label).double(), people.gather(1, label[:, None]).flatten()
        classes = [c for c in range(people.shape[1]) if (label == c).any()]
        by_class = [[float(part[label == c].mean()) for c in classes] for part in (agreed, right)]
        apart = divergence(people, model)
        entropies = [-torch.xlogy(part, part).sum(dim=1) for part in (people, model)]
        metrics = {
            "model": float(right.mean()),
            "people": float(agreed.mean()),
            "majority": float((vote == label).double().mean()),
            "difficulty": correlation(*map(torch.tensor, by_class)),
            "uncertainty": correlation(*map(ranked, entropies)),
            "cross_entropy": float(-(people * log_model).sum(dim=1).mean()),
            "divergence": float(apart.mean()),
        }
        return Result(
            {name: value for name, value in metrics.items() if value is not None},
            {"model": 1 / people.shape[1], "people": 1 / people.shape[1], "majority": 1 / people.shape[1]},
            right.tolist(),
            {
                "classes": [classes, *by_class],
                "agreement": _by_agreement(people.max(dim=1).values, right),
                "examples": [
                    [
                        int(features.index[row]),
                        int(vote[row]),
                        float(people[row].max()),
                        int(answer[row]),
                        float(model[row].max()),
                    ]
                    for row in apart.argsort(descending=True, stable=True)[: self.examples].tolist()
                ],
            },
        )

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        found = []
        for name, result in results.items():
            rows = [(what, _shown(key, result.metrics)) for key, what in _WORDS.items() if key in result.metrics]
            figures = [
                ("classes", _scatter(result.details["classes"], dataset.names)),
                ("agreement", _bars(result.details["agreement"])),
            ]
            found.append(Section(f"{name}: beside people", "", Table(("measure", "value"), rows), figures))
            sheet = _sheet(dataset, result.details["examples"])
            found.append(Section(f"{name}: where people and model differ most", figures=[("pictures", sheet)]))
        return found


_LN2 = 0.6931471805599453
_WORDS = {
    "model": "accuracy of the model",
    "people": "accuracy of people",
    "majority": "accuracy of their majority",
    "difficulty": "correlation of class accuracies",
    "uncertainty": "rank correlation of uncertainty per image",
    "cross_entropy": "cross-entropy of the model under people's answers, nats",
    "divergence": "mean divergence of answers, bits",
}


def _shown(key: str, metrics: Mapping[str, float]) -> str:
    return f"{100 * metrics[key]:.1f} %" if key in ("model", "people", "majority") else f"{metrics[key]:.2f}"


def _by_agreement(agreement: Tensor, right: Tensor) -> list[list[Any]]:
    """Accuracy of the model where so many people agreed: [words, accuracy, images]."""
    rows: list[list[Any]] = []
    for low, high in pairwise(_BINS):
        inside = (agreement > low) & (agreement <= high)
        if inside.any():
            rows.append([f"{100 * low:.0f} to {100 * high:.0f} %", float(right[inside].mean()), int(inside.sum())])
    return rows


def _scatter(classes: Any, names: list[str]) -> Figure:
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    numbers, people, model = classes
    axes.scatter([100 * value for value in people], [100 * value for value in model], color="#2e8b57", s=18)
    for number, x, y in zip(numbers, people, model, strict=True):
        axes.annotate(names[number], (100 * x, 100 * y), fontsize=7, xytext=(3, 3), textcoords="offset points")
    axes.set(xlabel="people, %", ylabel="model, %", title="accuracy by class")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(rows: list[list[Any]]) -> Figure:
    figure = Figure(figsize=(4.8, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(
        [f"{words}\n{images:,} images" for words, _, images in rows], [100 * value for _, value, _ in rows], color="#4a7fb5"
    )
    axes.set(ylabel="accuracy of the model, %", title="by share of people who agree", ylim=(0, 100))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=7)
    return figure


def _sheet(dataset: EvaluationSet, examples: Any) -> Figure:
    pictures, texts = [], []
    for place, vote, sure, answer, probability in examples:
        pixels = picture(dataset.source, place)
        if pixels is not None:
            pictures.append(pixels)
            people, model = (f"{dataset.names[c]} {100 * p:.0f} %" for c, p in ((vote, sure), (answer, probability)))
            texts.append(f"{wrapped('people: ' + people)}\n{wrapped('model: ' + model)}")
    return contact_sheet(pictures, texts)
