"""Comparison with humans: how many people chose each class, beside a model's probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.human_answers import agreement, correlation, divergence, entropy, ranked, read_answers
from lightning_clip.evaluation.human_figures import agreement_bars, class_scatter, difference_sheet, hardest_classes
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.scores import Scores
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.text import percent

__all__ = ["Humans"]

_BINS = (0.0, 0.6, 0.8, 0.95, 1.0)
_DIRECTIONS = {"people_right": "people are right, the model is wrong", "model_right": "the model is right, people are not"}
_SHARES = ("model", "people", "majority", "people_on_guesses", "majority_on_guesses")
_WORDS = {
    "model": "accuracy of the model",
    "people": "accuracy of people",
    "majority": "accuracy of their majority",
    "people_on_guesses": "accuracy of people who named a class",
    "majority_on_guesses": "accuracy of the majority of those",
    "difficulty": "correlation of class accuracies",
    "difficulty_rank": "rank correlation of class accuracies",
    "uncertainty": "rank correlation of uncertainty per image",
    "cross_entropy": "cross-entropy of the model under people's answers, nats",
    "kullback_leibler": "the same less the entropy of people's answers, nats",
    "divergence": "mean Jensen-Shannon divergence of answers, bits",
}


@protocols.register("humans")
class Humans(Protocol):
    """What is hard for people is hard for CLIP (Radford et al. 2021, section 4.4, table 2 and figure 16).

    Metrics: model, people (share of all answers), majority (of the most frequent answer, without images with a tie), with
    `unknown` also people_on_guesses and majority_on_guesses (table 2's columns); difficulty (Pearson's correlation of class
    accuracies) and difficulty_rank (Spearman's); uncertainty (Spearman's correlation of the entropies of people's answers and
    of the model's probabilities, per image); cross_entropy and kullback_leibler (nats, of the model under people's answers),
    divergence (mean, bits). Images for which nobody named a class count in the accuracies only. With several tables all but
    `model` are `<table>/<measure>`.

    Args:
        counts: csv with a row an image and a column a class: how many people chose it; or name -> csv, such as the zero-, one-
            and two-shot answers of the paper's study.
        column: of the image names.
        unknown: column of those who answered that they do not know, as in the paper's study on pets; "" for none.
        examples: images to show for each direction of disagreement.

    Raises:
        InputError: no `counts` given.
    """

    title = "Comparison with people"

    def __init__(
        self, counts: str | Mapping[str, str] = "", column: str = "image", unknown: str = "", examples: int = 12
    ) -> None:
        if not counts:
            raise InputError("humans needs counts: a csv with a row an image and a column a class, or a name and a csv each")
        self.counts = counts if isinstance(counts, str) else dict(counts)
        self.column, self.unknown, self.examples = column, unknown, examples

    def evaluate(self, subject: Subject) -> Result:
        """Accuracies of model and people, and how their answers agree."""
        scores = subject.scores()
        if scores.label.ndim == 2:
            raise InputError("humans is for one class an image: omit it for a multilabel set")
        log_model = torch.log_softmax(scores.values.double(), dim=1)
        right = (log_model.argmax(dim=1) == scores.label).double()
        metrics: dict[str, float] = {"model": float(right.mean())}
        tables = {}
        for name, path in self._tables().items():
            measures, tables[name] = self._beside(subject, scores, log_model, path)
            metrics |= {f"{name}/{key}" if name else key: value for key, value in measures.items() if value is not None}
        chance = {key: 1 / log_model.shape[1] for key in metrics if key.rpartition("/")[2] in _SHARES}
        return Result(metrics, chance, right.tolist(), {"tables": tables})

    def _tables(self) -> dict[str, str]:
        return {"": self.counts} if isinstance(self.counts, str) else self.counts

    def _beside(
        self, subject: Subject, scores: Scores, log_model: Tensor, path: str
    ) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Measures of one table, and what the report shows."""
        answers = read_answers(path, subject.dataset.names, scores.keys, self.column, self.unknown)
        of_people: dict[str, float | None] = dict(agreement(answers, scores.label)._asdict())
        if not self.unknown:
            del of_people["people_on_guesses"], of_people["majority_on_guesses"]
        judged = (answers.counts.sum(dim=1) > 0).nonzero().flatten()
        measures, details = self._compared(
            answers.shares[judged], log_model[judged], scores.label[judged], scores.index[judged]
        )
        return of_people | measures, details

    def _compared(
        self, people: Tensor, log_model: Tensor, label: Tensor, index: Tensor
    ) -> tuple[dict[str, float | None], dict[str, Any]]:
        """Measures and what the report shows, from probabilities (N, C) of people and of the model."""
        model = log_model.exp()
        right, agreed = (model.argmax(dim=1) == label).double(), people.gather(1, label[:, None]).flatten()
        classes = [c for c in range(people.shape[1]) if (label == c).any()]
        by_class = [torch.stack([part[label == c].mean() for c in classes]) for part in (agreed, right)]
        cross = -(people * log_model).sum(dim=1)
        apart = divergence(people, model)
        measures = {
            "difficulty": correlation(*by_class),
            "difficulty_rank": correlation(*map(ranked, by_class)),
            "uncertainty": correlation(ranked(entropy(people)), ranked(entropy(model))),
            "cross_entropy": float(cross.mean()),
            "kullback_leibler": float((cross - entropy(people)).mean()),
            "divergence": float(apart.mean()),
        }
        details = {
            "classes": [classes, *(part.tolist() for part in by_class)],
            "agreement": _by_agreement(people.max(dim=1).values, right),
            "examples": self._examples(people, model, label, index, apart),
        }
        return measures, details

    def _examples(
        self, people: Tensor, model: Tensor, label: Tensor, index: Tensor, apart: Tensor
    ) -> dict[str, list[list[float]]]:
        """In each direction those that differ most: [place, people's class, its share, the model's, its probability]."""
        (sure, vote), (probability, answer) = people.max(dim=1), model.max(dim=1)
        order = apart.argsort(descending=True, stable=True)
        directions = ((vote == label) & (answer != label), (answer == label) & (vote != label))
        return {
            name: [
                [int(index[row]), int(vote[row]), float(sure[row]), int(answer[row]), float(probability[row])]
                for row in order[rows[order]][: self.examples].tolist()
            ]
            for name, rows in zip(_DIRECTIONS, directions, strict=True)
        }

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """Measures, figures and the images on which they differ most, for each model."""
        found = []
        for name, result in results.items():
            tables = result.details["tables"]
            parts = [key for key in _WORDS if any(_key(table, key) in result.metrics for table in tables)]
            rows = [(_WORDS[key], *(_shown(key, result.metrics, _key(table, key)) for table in tables)) for key in parts]
            header = ("measure", *(table or "value" for table in tables))
            figures = [("hardest", hardest_classes(tables, dataset.names))]
            for table, details in tables.items():
                figures.append((f"classes {table}".strip(), class_scatter(details["classes"], dataset.names)))
                figures.append((f"agreement {table}".strip(), agreement_bars(details["agreement"])))
            found.append(Section(f"{name}: beside people", "", Table(header, rows), figures))
            for table, details in tables.items():
                for direction, words in _DIRECTIONS.items():
                    if (sheet := difference_sheet(dataset, details["examples"][direction])) is not None:
                        title = f"{name}: {table + ', ' if table else ''}{words}"
                        found.append(Section(title, "Those that differ most.", figures=[(direction, sheet)]))
        return found


def _key(table: str, key: str) -> str:
    """A measure's name in the results: the model's accuracy is one for all tables."""
    return f"{table}/{key}" if table and key != "model" else key


def _shown(key: str, metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    return percent(metrics[name]) if key in _SHARES else f"{metrics[name]:.2f}"


def _by_agreement(agreed: Tensor, right: Tensor) -> list[list[Any]]:
    """Accuracy of the model where so many people agreed: [words, accuracy, images]."""
    rows: list[list[Any]] = []
    for low, high in pairwise(_BINS):
        inside = (agreed > low) & (agreed <= high)
        if inside.any():
            rows.append([f"{100 * low:.0f} to {100 * high:.0f} %", float(right[inside].mean()), int(inside.sum())])
    return rows
