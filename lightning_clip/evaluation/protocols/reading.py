"""Reading: which of several words stands on a picture."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.evaluation.protocols.base import Protocol, Result, Subject, protocols
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section, Table
from lightning_clip.reporting.sheets import contact_sheet
from lightning_clip.reporting.text import in_percent

__all__ = ["Reading", "chosen_candidates", "closest_words", "picked"]

_SHOWN = 12
_LENGTHS = ((1, 4), (5, 8), (9, 99))


@protocols.register("reading")
class Reading(Protocol):
    """Zero-shot reading: the word on a picture among candidates, by similarity to prompts such as "a sign that says {}".

    For sets whose class names are words that their pictures show, such as `rendered_text` and `signs`.

    Metrics: accuracy (among drawn candidates), among_all (among all words of the set), lookalike (against the one other word
    that is spelt most alike), letters/<from>-<to> (accuracy for words of that length).

    Args:
        candidates: words to choose among, the right one included; at least 2. Where the set has fewer, all of them.
        seed: of the draws.
    """

    title = "Reading"

    def __init__(self, candidates: int = 10, seed: int = 0) -> None:
        if candidates < 2:
            raise InputError(f"reading has candidates {candidates}: give at least two words to choose among")
        in_range("reading's candidates", candidates, 2, whole=True)
        self.candidates, self.seed = candidates, seed

    def evaluate(self, subject: Subject) -> Result:
        """Picks a word for each picture."""
        words = subject.dataset.names
        if len(words) < 2:
            raise InputError(
                f"reading has one candidate word only ({''.join(words)!r}): give at least two words to choose among"
            )
        features = subject.features()
        if features.label.ndim == 2:
            raise InputError("reading is for one word an image: omit it for a multilabel set")
        scores = features.image_features @ subject.classifier()  # (N, D) @ (D, C) -> (N, C)
        truth = features.label
        drawn = torch.stack(
            [
                chosen_candidates(int(label), len(words), self.candidates, f"{self.seed} {place}")
                for label, place in zip(truth.tolist(), features.index.tolist(), strict=True)
            ]
        )  # (N, K)
        among = picked(scores, drawn)
        right = among == truth
        close = closest_words(words)
        metrics = {
            "accuracy": float(right.double().mean()),
            "among_all": float((scores.argmax(dim=1) == truth).double().mean()),
            "lookalike": float((picked(scores, torch.stack([truth, close[truth]], dim=1)) == truth).double().mean()),
        }
        chance = {"accuracy": 1 / drawn.shape[1], "among_all": 1 / len(words), "lookalike": 1 / 2}
        lengths = torch.tensor([len(word) for word in words])[truth]
        for low, high in _LENGTHS:
            inside = (lengths >= low) & (lengths <= high)
            if inside.any():
                metrics[f"letters/{low}-{high}"] = float(right[inside].double().mean())
                chance[f"letters/{low}-{high}"] = chance["accuracy"]
        shown = [[int(place), int(answer)] for place, answer in zip(features.index[:_SHOWN], among[:_SHOWN], strict=True)]
        return Result(metrics, chance, right.double().tolist(), {"answers": shown, "lookalikes": close.tolist()})

    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """A table of all models, and the first pictures."""
        first = next(iter(results.values()))
        keys = list(first.metrics)
        rows = [(name, *(in_percent(result.metrics[key]) for key in keys)) for name, result in results.items()]
        rows.append(("guessing", *(in_percent(first.chance[key]) for key in keys)))
        words = {"accuracy": f"among {round(1 / first.chance['accuracy'])}", "among_all": f"among all {len(dataset.names)}"}
        header = ("", *(words.get(key, key.replace("lookalike", "against a lookalike").replace("/", " ")) for key in keys))
        sheets = [(name, _sheet(result, dataset)) for name, result in results.items()]
        text = "In %: how often the word on the picture is more similar to it than other words are."
        legend = "Green: read right; red: what it was taken for."
        return [Section("Words read", text, Table(header, rows)), Section("The first pictures", legend, figures=sheets)]


def chosen_candidates(label: int, count: int, candidates: int, seed: str) -> Tensor:
    """Numbers of words to choose among, the right one first: int64 (K,), K = min(candidates, count).

    Args:
        label: of the right word.
        count: of all words.
        candidates: how many are wanted.
        seed: of the draw.
    """
    others = [number for number in range(count) if number != label]
    return torch.tensor([label, *random.Random(seed).sample(others, min(candidates, count) - 1)])


def picked(scores: Tensor, candidates: Tensor) -> Tensor:
    """The candidate with the highest score; of equal ones the last, so that a model that sees no difference is never right.

    Args:
        scores: (N, C).
        candidates: int64 (N, K), classes to choose among, the right one first.

    Returns:
        int64 (N,), classes.

    Examples:
        >>> picked(torch.tensor([[0.1, 0.3, 0.2]]), torch.tensor([[2, 0]])).tolist()
        [2]
    """
    own = scores.gather(1, candidates.to(scores.device)).flip(1)  # (N, K), the right one last
    place = candidates.shape[1] - 1 - _last_best(own)
    return candidates.gather(1, place[:, None].cpu())[:, 0]


def _last_best(reversed_scores: Tensor) -> Tensor:
    """Place of the highest score, the first of equal ones (N,)."""
    best = reversed_scores == reversed_scores.amax(dim=1, keepdim=True)
    return best.int().argmax(dim=1)


def closest_words(words: Sequence[str]) -> Tensor:
    """For each word the other one that is spelt most alike: int64 (C,).

    Args:
        words: at least two.

    Examples:
        >>> closest_words(["house", "tree", "mouse", "trees"]).tolist()
        [2, 3, 0, 1]
    """
    found = []
    for place, word in enumerate(words):
        ratios = [SequenceMatcher(None, word, other).ratio() if number != place else -1.0 for number, other in enumerate(words)]
        found.append(max(range(len(words)), key=ratios.__getitem__))
    return torch.tensor(found)


def _sheet(result: Result, dataset: EvaluationSet) -> Figure:
    pictures: list[Tensor] = []
    texts: list[str] = []
    colours: list[str] = []
    for place, answer in result.details["answers"]:
        pair = dataset.source[place]
        pictures.append(dataset.picture(place))
        texts.append(dataset.names[answer])
        colours.append("good" if answer == pair.label else "bad")
    return contact_sheet(pictures, texts, colours, columns=6)
