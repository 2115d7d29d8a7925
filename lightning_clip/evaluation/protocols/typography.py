"""The typographic attack: how far the name of another class, written on a picture, moves the answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.applications.typography import Attack
from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.lettering import Lettering
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.evaluation.set_pictures import set_picture
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent

__all__ = ["AttackFigures", "Typography", "attack_figures"]

_CHUNK = 256  # pictures held at a time
_SHOWN = 12


class AttackFigures(NamedTuple):
    """What an attack does to the answers.

    Attributes:
        clean: share named right without the word.
        attacked: share named right with it.
        success: of those named right without it, the share that is named by the word.
        shift: mean rise of the probability of the word's class.
        loss: mean fall of the probability of the true class.
    """

    clean: float
    attacked: float
    success: float
    shift: float
    loss: float


def attack_figures(before: Tensor, after: Tensor, true: Tensor, target: Tensor) -> AttackFigures:
    """Figures of an attack on N pictures.

    Args:
        before: scores (N, C) without the word, scaled as for a softmax.
        after: scores (N, C) with it.
        true: int64 (N,), classes.
        target: int64 (N,), classes whose words are written.

    Raises:
        InputError: a picture whose true class is its target.

    Examples:
        >>> before, after = torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 2.0], [0.0, 2.0]])
        >>> attack_figures(before, after, torch.tensor([0, 1]), torch.tensor([1, 0])).success
        0.5
    """
    if (true == target).any():
        place = int((true == target).nonzero()[0])
        raise InputError(f"picture {place} has class {int(true[place])} and is attacked with that class: write another word")
    rows = torch.arange(len(true))
    right, fooled = before.argmax(dim=1) == true, after.argmax(dim=1) == target
    moved = after.double().softmax(dim=1) - before.double().softmax(dim=1)  # (N, C)
    return AttackFigures(
        clean=float(right.double().mean()),
        attacked=float((after.argmax(dim=1) == true).double().mean()),
        success=float((right & fooled).sum() / right.sum().clamp(min=1)),
        shift=float(moved[rows, target].mean()),
        loss=-float(moved[rows, true].mean()),
    )


@protocols.register("typography")
class Typography(Protocol):
    """Zero-shot classification of pictures on which the name of another class is written.

    For any labelled set. The word stands in the square in the middle of a picture, which the model sees. Classes are scored by
    similarity to their prompts, whatever the objective.

    Metrics: attacked (accuracy with the word), clean (without), covered (with an empty board in its place: what covering alone
    costs), success (of pictures named right without, the share that is named by the word), shift (mean rise of the
    probability of the word's class), loss (mean fall of that of the true class).

    Args:
        target: the word that is written on all pictures of other classes; None draws another class for each.
        place: of the word: "bottom", "top", "centre" or "random".
        share: size of the letters, in sides of the picture; smaller where a word would not fit.
        colour: of the letters.
        board: colour behind them, "none" for none.
        font: a .ttf or .otf file; None for the font that PIL ships.
        limit: pictures at most; None for all.
        seed: of what is drawn.
    """

    title = "Typographic attack"

    def __init__(
        self,
        target: str | None = None,
        *,
        place: str = "bottom",
        share: float = 0.2,
        colour: str = "black",
        board: str = "white",
        font: str | None = None,
        limit: int | None = None,
        seed: int = 0,
    ) -> None:
        if limit is not None:
            in_range("typography's limit", limit, 1, whole=True)
        self.target, self.place, self.share, self.colour, self.board = target, place, share, colour, board
        self.font, self.limit, self.seed = font, limit, seed
        self._lettering = Lettering(place, share, colour, board, font)

    def attack_on(self, dataset: EvaluationSet) -> Attack:
        """The attack on a set.

        Raises:
            InputError: fewer than two classes, or a target that is none of them.
        """
        return Attack(dataset.names, self.target, self._lettering, self.seed)

    def evaluate(self, subject: Subject) -> Result:
        """Answers without the word, with an empty board, and with the word."""
        attack = self.attack_on(subject.dataset)
        places, true = _places(subject.dataset, attack, self.limit)
        classifier = subject.scale * subject.classifier()  # (D, C)
        features: list[list[Tensor]] = [[], [], []]
        for start in range(0, len(places), _CHUNK):
            chunk = [(place, set_picture(subject.dataset, place)) for place in places[start : start + _CHUNK]]
            labels = true[start : start + _CHUNK].tolist()
            forms = (
                [picture for _, picture in chunk],
                [attack.empty(picture, place) for place, picture in chunk],
                [attack(picture, place, label)[0] for (place, picture), label in zip(chunk, labels, strict=True)],
            )
            for found, pictures in zip(features, forms, strict=True):
                found.append(subject.encode_images(pictures))
        clean, covered, attacked = (torch.cat(found) @ classifier.cpu() for found in features)  # (N, D) @ (D, C)
        target = torch.tensor([attack.target_of(place, label) for place, label in zip(places, true.tolist(), strict=True)])
        figures = attack_figures(clean, attacked, true, target)
        right = attacked.argmax(dim=1) == true
        metrics = {
            "attacked": figures.attacked,
            "clean": figures.clean,
            "covered": float((covered.argmax(dim=1) == true).double().mean()),
            "success": figures.success,
            "shift": figures.shift,
            "loss": figures.loss,
        }
        chance = dict.fromkeys(("attacked", "clean", "covered"), 1 / len(attack.words))
        answers = attacked.argmax(dim=1).tolist()[:_SHOWN]
        return Result(metrics, chance, right.double().tolist(), {"answers": answers, "places": places[:_SHOWN]})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models, and the first pictures with their answers."""
        names = ("clean", "covered", "attacked", "success", "shift", "loss")
        header = (
            "",
            "no word",
            "empty board",
            "another class's word",
            "fooled",
            "word's probability",
            "true one's probability",
        )
        rows = [(name, *(_shown(key, result.metrics[key]) for key in names)) for name, result in results.items()]
        text = (
            "In %. Accuracy without a word, with an empty board, with the word of another class; the share of right answers "
            "that become the word; how much the word raises the probability of its class and lowers that of the true one."
        )
        sheets = [(name, self._sheet(result, dataset)) for name, result in results.items()]
        legend = "Green: named right; red: named by the word; black: another answer."
        return [Section("Words on pictures", text, Table(header, rows)), Section("The first pictures", legend, figures=sheets)]

    def _sheet(self, result: Result, dataset: EvaluationSet) -> Figure:
        attack, pictures, texts, colours = self.attack_on(dataset), [], [], []
        for place, answer in zip(result.details["places"], result.details["answers"], strict=True):
            label = _label(dataset, place)
            pictures.append(attack(set_picture(dataset, place), place, label)[0])
            texts.append(dataset.names[answer])
            colours.append("good" if answer == label else "bad" if answer == attack.target_of(place, label) else "plain")
        return contact_sheet(pictures, texts, colours, columns=6)


def _shown(key: str, value: float) -> str:
    return {"shift": "+", "loss": "-"}.get(key, "") + in_percent(value)


def _places(dataset: EvaluationSet, attack: Attack, limit: int | None) -> tuple[list[int], Tensor]:
    """Pictures that are attacked, at most `limit`, and their classes."""
    if dataset.multilabel:
        raise InputError("typography is for one class an image: omit it for a multilabel set")
    places: list[int] = []
    labels: list[int] = []
    for place in range(len(dataset.source)):
        if limit is not None and len(places) == limit:
            break
        label = _label(dataset, place)
        if attack.attacks(label):
            places.append(place)
            labels.append(label)
    if not places:
        raise InputError(
            f"all pictures show {attack.target!r}, which is the target of the attack: take another target, or pictures of "
            "other classes"
        )
    return places, torch.tensor(labels)


def _label(dataset: EvaluationSet, place: int) -> int:
    label = dataset.source.label(place)
    if label is None or not 0 <= label < len(dataset.names):
        raise InputError(
            f"{dataset.source.place(place)} has label {label}, and there are {len(dataset.names)} class names: typography "
            "needs a class for each picture"
        )
    return label
