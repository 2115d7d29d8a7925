"""Choices: which of a picture's own captions is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, headed, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent, wrapped

__all__ = ["Choices"]

_SHOWN = 12
_COLUMNS = 16  # of the table; report.json has all


@protocols.register("choices")
class Choices(Protocol):
    """The right caption of a picture among captions that are its own, such as "two red circles" among other numbers.

    For sets whose pairs have `choices` (captions) and `answer` (the place of the right one) in their metadata, such as
    `puzzles`. Equal similarities count as wrong.

    Metrics: accuracy, mean_per_class, and class/<name> for each class of the set.

    Args:
        measure: the headline, such as "mean_per_class", which ARO's authors report; "" for the first.
    """

    title = "Choices"

    def __init__(self, measure: str = "") -> None:
        self.measure = measure

    def evaluate(self, subject: Subject) -> Result:
        """Picks a caption for each picture."""
        features = subject.features()
        puzzles = [_puzzle(subject.dataset, place) for place in features.index.tolist()]
        texts = list(dict.fromkeys(text for choices, _ in puzzles for text in choices))
        numbers = {text: number for number, text in enumerate(texts)}
        of_texts = subject.encode_text(texts).to(features.image_features)  # (T, D)
        answers, right = [], []
        for row, (choices, answer) in enumerate(puzzles):
            own = of_texts[[numbers[text] for text in choices]] @ features.image_features[row]  # (K, D) @ (D,) -> (K,)
            answers.append(_chosen(own, answer))
            right.append(answers[-1] == answer)
        accuracy = torch.tensor(right).double()
        metrics = {"accuracy": float(accuracy.mean())}
        chance = {"accuracy": float(torch.tensor([1 / len(choices) for choices, _ in puzzles]).double().mean())}
        by_class = _by_class(accuracy, features.label, subject.dataset.names)
        if by_class:
            metrics |= {"mean_per_class": sum(by_class.values()) / len(by_class), **by_class}
            chance["mean_per_class"] = chance["accuracy"]
        shown = [[place, answer] for place, answer in zip(features.index.tolist()[:_SHOWN], answers, strict=False)]
        return headed(Result(metrics, chance, accuracy.tolist(), {"answers": shown}), self.measure)

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models, and the first pictures."""
        keys = list(dict.fromkeys(key for result in results.values() for key in result.metrics))[:_COLUMNS]
        rows = [
            (name, *(in_percent(found.metrics[key]) if key in found.metrics else "" for key in keys))
            for name, found in results.items()
        ]
        chance = next(iter(results.values())).chance[keys[0]]
        rows.append(("guessing", in_percent(chance), *("" for _ in keys[1:])))
        header = ("", *(key.removeprefix("class/") for key in keys))
        sheets = [(name, _sheet(result, dataset)) for name, result in results.items()]
        text = "In %: how often a picture is most similar to the right one of its own captions, over all and by class."
        legend = "Green: chosen right; red: the wrong caption that was chosen."
        return [Section("Captions chosen", text, Table(header, rows)), Section("The first pictures", legend, figures=sheets)]


def _by_class(right: Tensor, label: Tensor, names: Sequence[str]) -> dict[str, float]:
    """`class/<name>` of each class that occurs."""
    if label.ndim != 1:
        return {}
    inside = {name: label == number for number, name in enumerate(names)}
    return {f"class/{name}": float(right[rows].mean()) for name, rows in inside.items() if rows.any()}


def _puzzle(dataset: EvaluationSet, place: int) -> tuple[list[str], int]:
    """Captions to choose from, and the place of the right one."""
    metadata: Mapping[str, Any] = dataset.source[place].metadata
    choices, answer = metadata.get("choices"), metadata.get("answer")
    where = dataset.source.place(place)
    if not isinstance(choices, list | tuple) or not isinstance(answer, int):
        raise InputError(
            f"{where} has no captions to choose from: take the set 'puzzles', or pairs with choices and answer as metadata"
        )
    if len(choices) < 2:
        raise InputError(f"{where} has one candidate caption only ({''.join(choices)!r}): give at least two to choose among")
    if not 0 <= answer < len(choices):
        raise InputError(f"{where} has answer {answer} of {len(choices)} choices: count them from 0")
    return list(choices), answer


def _chosen(scores: Tensor, answer: int) -> int:
    """The place of the highest score; of equal ones a wrong one."""
    best = (scores == scores.max()).nonzero().flatten().tolist()
    return next((place for place in best if place != answer), answer)


def _sheet(result: Result, dataset: EvaluationSet) -> Figure:
    pictures: list[Tensor] = []
    texts: list[str] = []
    colours: list[str] = []
    for place, answer in result.details["answers"]:
        choices, right = _puzzle(dataset, place)
        pictures.append(dataset.picture(place))
        texts.append(wrapped(choices[answer], 26, 3))
        colours.append("good" if answer == right else "bad")
    return contact_sheet(pictures, texts, colours, columns=6)
