"""Answers of people from a table of counts, and measures of their agreement with a model."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.evaluation.groups import matched_rows

__all__ = ["Answers", "agreement", "correlation", "divergence", "entropy", "ranked", "read_answers"]


class Answers(NamedTuple):
    """How many people gave which answer.

    Attributes:
        counts: float64 (N, C), for each image and class.
        unknown: float64 (N,), how many answered that they do not know.
    """

    counts: Tensor
    unknown: Tensor

    @property
    def shares(self) -> Tensor:
        """Of each class among those who named one, float64 (N, C); zeros where nobody did."""
        return self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=1e-300)


def read_answers(
    path: str, class_names: Sequence[str], keys: Sequence[str], column: str = "image", unknown: str = ""
) -> Answers:
    """Reads a table of counts, in the order of the keys.

    Args:
        path: csv with a column of image names and one for each class; other rows and columns are ignored.
        class_names: in the order of the labels.
        keys: of the images of the set.
        column: of the image names; they are keys of the set, or endings of their paths that occur once.
        unknown: column of those who answered that they do not know; "" for none.

    Raises:
        InputError: a missing file or column, a cell that is no count, an image without a row, one that nobody judged, or
            answers of which none names a class.
    """
    with existing_path(path, "human counts").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    wanted = [column, *class_names, *([unknown] if unknown else [])]
    for name in wanted:
        if not rows or name not in rows[0]:
            known = nearest(name, rows[0]) if rows else "the table is empty"
            raise InputError(
                f"human counts {path!r} have no column {name!r}, and need {column!r} and one for each class: {known}"
            )
    names = [row[column] for row in rows]
    place = _rows(path, names, keys)
    table = torch.tensor([[_count(path, rows[at], name) for name in wanted[1:]] for at in place], dtype=torch.float64)
    silent = (table.sum(dim=1) <= 0).nonzero().flatten().tolist()
    if silent:
        raise InputError(
            f"nobody judged image {names[place[silent[0]]]!r}: omit it from the set, or give unknown= the column of those who "
            "did not know"
        )
    classes = len(class_names)
    if not table[:, :classes].any():
        raise InputError(f"human counts {path!r}: nobody named a class of any image, so there is nothing to compare with")
    return Answers(table[:, :classes], table[:, classes:].sum(dim=1))


def _rows(path: str, names: Sequence[str], keys: Sequence[str]) -> list[int]:
    """The row of each key; the table may have rows of other images."""
    found: list[int] = matched_rows(keys, names).tolist()
    absent = [key for key, row in zip(keys, found, strict=True) if row < 0]
    if absent:
        raise InputError(f"human counts {path!r} lack {len(absent)} of {len(keys)} images, the first is {absent[0]!r}")
    return found


def _count(path: str, row: dict[str, str], name: str) -> float:
    try:
        value = float(row[name] or 0)
    except (TypeError, ValueError):
        value = -1.0
    if not (value >= 0 and math.isfinite(value)):
        raise InputError(f"human counts {path!r}: {row[name]!r} in column {name!r} is no count: give a number from 0")
    return value


class Agreement(NamedTuple):
    """Accuracy of people.

    Attributes:
        people: share of all answers, of all images together, that are right; who did not know was not right.
        majority: share of images whose most frequent answer is right, among those without a tie for the first place.
        people_on_guesses: share of right ones among all answers that name a class.
        majority_on_guesses: as majority, not counting who did not know.
    """

    people: float
    majority: float
    people_on_guesses: float
    majority_on_guesses: float


def agreement(answers: Answers, label: Tensor) -> Agreement:
    """Accuracies as in table 2 of Radford et al. (2021): answers are pooled, so that an image counts as often as it was judged.

    Args:
        answers: of N images; at least one names a class.
        label: int64 (N,).

    Examples:
        >>> found = agreement(Answers(torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 4.0])), torch.tensor([0, 0]))
        >>> round(found.people, 3), round(found.people_on_guesses, 3)  # 5 of 10 answers, 5 of 6 guesses
        (0.5, 0.833)
    """
    own = answers.counts.gather(1, label[:, None]).sum()
    named = answers.counts.sum(dim=1)
    both = torch.cat([answers.counts, answers.unknown[:, None]], dim=1)  # (N, C) -> (N, C + 1)
    return Agreement(
        float(own / both.sum()),
        _majority(both, label),
        float(own / named.sum()),
        _majority(answers.counts[named > 0], label[named > 0]),
    )


def _majority(counts: Tensor, label: Tensor) -> float:
    top = counts.topk(2, dim=1).values
    clear = top[:, 0] > top[:, 1]
    right = counts.argmax(dim=1) == label
    return float(right[clear].double().mean()) if clear.any() else 0.0


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen-Shannon divergence of rows, in bits, (N,): 0 for equal ones, 1 for disjoint ones.

    Args:
        first: probabilities (N, C).
        second: likewise.
    """
    middle = (first + second) / 2
    parts = [(torch.xlogy(part, part) - torch.xlogy(part, middle)).sum(dim=1) for part in (first, second)]
    found: Tensor = (parts[0] + parts[1]) / 2 / math.log(2)
    return found


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy of rows in nats, (N,).

    Args:
        probabilities: (N, C).
    """
    return -torch.xlogy(probabilities, probabilities).sum(dim=1)


def correlation(first: Tensor, second: Tensor) -> float | None:
    """Pearson's correlation, in [-1, 1]; None where one of them does not vary. Of `ranked` values it is Spearman's.

    Args:
        first: (N,).
        second: (N,).
    """
    a, b = first.double() - first.double().mean(), second.double() - second.double().mean()
    size = a.norm() * b.norm()
    return float((a @ b) / size) if size > 1e-12 else None


def ranked(values: Tensor) -> Tensor:
    """Ranks float64 (N,), equal values sharing their mean rank; values equal to nine digits are equal.

    Sums of the same numbers in another order differ in their last digit: they must count as equal.

    Args:
        values: (N,).
    """
    _, which, counts = torch.unique(values.double().round(decimals=9), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = (last - (counts.double() - 1) / 2)[which]
    return ranks
