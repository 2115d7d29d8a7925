"""The comparison with people end to end: every figure against loops and scipy, its sections, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encoded, gradient
from scipy.special import softmax
from scipy.stats import entropy, pearsonr, spearmanr
from subjects import BySimilarity
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.human_answers import Answers, agreement, read_answers
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.evaluation.protocols.humans import Humans
from lightning_clip.prompts.evaluation_sets import EvaluationSet

NAMES = ["cat", "dog", "cow"]


class Pictures(PairSource):
    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> Pair:
        return Pair(encoded(gradient(16 + index, 12), "PNG"), (), f"{index}.png", index % 3)


class Fake(BySimilarity):
    """A subject with random unit features."""

    scale, device = 6.0, torch.device("cpu")

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(2)
        self.dataset = EvaluationSet(Pictures(), NAMES, ["{}"])
        self.columns = normalize(torch.randn(8, 3, generator=generator), dim=0)
        self.label = torch.arange(60) % 3
        self.vectors = normalize(self.columns.T[self.label] + 0.5 * torch.randn(60, 8, generator=generator), dim=-1)

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        keys = [f"{number}.png" for number in range(60)]
        return Features(self.vectors, self.vectors, self.label, torch.arange(60), keys)

    def classifier(self, class_names: Any = None, templates: Any = None) -> Tensor:
        return self.columns


def counts() -> np.ndarray:
    """Ten people an image, most of them right; of the first image the vote is a tie."""
    rng = np.random.default_rng(4)
    found = np.stack([rng.multinomial(10, np.roll([0.7, 0.2, 0.1], number % 3)) for number in range(60)])
    found[0] = [5, 5, 0]
    return found


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Rows from last to first, classes in another order than the set's, and a column that nobody needs."""
    lines = [f"{number}.png,x,{c[2]},{c[0]},{c[1]}" for number, c in reversed(list(enumerate(counts())))]
    path = tmp_path / "counts.csv"
    path.write_text("\n".join(["image,note,cow,cat,dog", *lines]) + "\n")
    return str(path)


def test_every_figure_by_hand(table: str) -> None:
    subject, chosen = Fake(), counts()
    metrics = Humans(table).evaluate(subject).metrics
    people = chosen / 10
    model = softmax(6.0 * subject.vectors.double().numpy() @ subject.columns.double().numpy(), axis=1)
    label = subject.label.tolist()
    right = [float(max(range(3), key=lambda c: (row[c], -c)) == true) for row, true in zip(model, label, strict=True)]
    vote = [float(max(range(3), key=lambda c: (row[c], -c)) == true) for row, true in zip(chosen, label, strict=True)]
    share = [row[true] for row, true in zip(people, label, strict=True)]
    classes = [[np.mean([part[n] for n in range(60) if label[n] == c]) for c in range(3)] for part in (share, right)]
    assert metrics["model"] == pytest.approx(np.mean(right))
    assert metrics["people"] == pytest.approx(np.mean(share))
    clear = [sorted(row)[-1] > sorted(row)[-2] for row in chosen.tolist()]
    assert not clear[0]  # ties for the first place are left out
    assert metrics["majority"] == pytest.approx(np.mean([v for v, c in zip(vote, clear, strict=True) if c]))
    assert "people_on_guesses" not in metrics
    assert metrics["difficulty"] == pytest.approx(pearsonr(*classes)[0])
    assert metrics["difficulty_rank"] == pytest.approx(spearmanr(*classes)[0])
    kullback = [entropy(a, b) for a, b in zip(people, model, strict=True)]
    assert metrics["kullback_leibler"] == pytest.approx(np.mean(kullback), abs=1e-5)
    cross = [-sum(p * np.log(q) for p, q in zip(a, b, strict=True)) for a, b in zip(people, model, strict=True)]
    assert metrics["cross_entropy"] == pytest.approx(np.mean(cross), abs=1e-5)
    middle = (people + model) / 2
    apart = (entropy(people, middle, base=2, axis=1) + entropy(model, middle, base=2, axis=1)) / 2
    assert metrics["divergence"] == pytest.approx(apart.mean(), abs=1e-6)


def test_equal_uncertainty_of_people_ties(table: str) -> None:
    subject = Fake()
    model = softmax(6.0 * subject.vectors.double().numpy() @ subject.columns.double().numpy(), axis=1)
    expected = spearmanr(entropy(counts() / 10, axis=1).round(9), entropy(model, axis=1).round(9))[0]
    assert Humans(table).evaluate(subject).metrics["uncertainty"] == pytest.approx(expected, abs=1e-6)


def test_examples_are_those_that_differ_most(table: str) -> None:
    subject = Fake()
    examples = Humans(table, examples=5).evaluate(subject).details["tables"][""]["examples"]
    people, label = counts() / 10, subject.label.numpy()
    model = softmax(6.0 * subject.vectors.double().numpy() @ subject.columns.double().numpy(), axis=1)
    middle = (people + model) / 2
    apart = entropy(people, middle, axis=1) + entropy(model, middle, axis=1)
    of_people, of_model = people.argmax(axis=1) == label, model.argmax(axis=1) == label
    for direction, rows in (("people_right", of_people & ~of_model), ("model_right", of_model & ~of_people)):
        expected = [row for row in np.argsort(-apart, kind="stable") if rows[row]][:5]
        assert expected and [entry[0] for entry in examples[direction]] == expected
        for place, vote, sure, answer, probability in examples[direction]:
            assert (vote, answer) == (people[place].argmax(), model[place].argmax())
            assert (sure, probability) == pytest.approx((people[place].max(), model[place].max()), abs=1e-5)


def test_who_does_not_know(tmp_path: Path) -> None:
    """Table 2's four columns, by hand: five people on each of four images of two classes and more."""
    rows = [(3, 0, 0, 2), (1, 2, 0, 2), (0, 0, 0, 5), (0, 2, 0, 3)]  # cat, dog, cow, do not know
    path = tmp_path / "counts.csv"
    lines = [",".join(map(str, (f"{number}.png", *row))) for number, row in enumerate(rows)]
    path.write_text("image,cat,dog,cow,unknown\n" + "\n".join(lines) + "\n")
    answers = read_answers(str(path), NAMES, [f"{number}.png" for number in range(4)], unknown="unknown")
    found = agreement(answers, torch.tensor([0, 0, 1, 1]))
    assert found.people == pytest.approx((3 / 5 + 1 / 5 + 0 + 2 / 5) / 4)
    assert found.majority == pytest.approx(1 / 3)  # right; a tie of dog and unknown, left out; unknown; unknown
    assert found.people_on_guesses == pytest.approx((3 + 1 + 2) / (3 + 3 + 0 + 2))  # answers are pooled, not images
    assert found.majority_on_guesses == pytest.approx(2 / 3)


def test_answers_are_pooled_where_images_have_different_numbers() -> None:
    """One answer at a time: CIFAR-10H has some 47 to 63 people an image, and each of them counts once."""
    rng = np.random.default_rng(7)
    counts, unknown, label = rng.integers(0, 9, (30, 4)), rng.integers(0, 5, 30), rng.integers(0, 4, 30)
    given = [
        (c, t) for row, own, t in zip(counts, unknown, label, strict=True) for c, n in enumerate([*row, own]) for _ in range(n)
    ]
    found = agreement(Answers(torch.tensor(counts).double(), torch.tensor(unknown).double()), torch.tensor(label))
    assert found.people == pytest.approx(np.mean([c == t for c, t in given]))
    assert found.people_on_guesses == pytest.approx(np.mean([c == t for c, t in given if c < 4]))
    two = agreement(Answers(torch.tensor([[5.0, 0.0], [0.0, 1.0]]), torch.tensor([0.0, 4.0])), torch.tensor([0, 0]))
    assert two.people_on_guesses == pytest.approx(5 / 6)


def test_images_on_which_nobody_guessed(tmp_path: Path) -> None:
    """They count in accuracies and in nothing else."""
    subject, chosen = Fake(), counts()
    path = tmp_path / "counts.csv"
    lines = [f"{n}.png,{c[0]},{c[1]},{c[2]},0" if n else "0.png,0,0,0,9" for n, c in enumerate(chosen)]
    path.write_text("\n".join(["image,cat,dog,cow,unknown", *lines]) + "\n")
    metrics = Humans(str(path), unknown="unknown").evaluate(subject).metrics
    model = softmax(6.0 * subject.vectors.double().numpy() @ subject.columns.double().numpy(), axis=1)
    cross = [-(p * np.log(q)).sum() for p, q in zip(chosen / 10, model, strict=True)][1:]
    assert metrics["cross_entropy"] == pytest.approx(np.mean(cross), abs=1e-5)
    assert metrics["people"] < metrics["people_on_guesses"]


def test_sections_from_kept_results(table: str) -> None:
    protocol, subject = Humans(table), Fake()
    result = protocol.evaluate(subject)
    assert result.per_image is not None and np.mean(result.per_image) == pytest.approx(result.metrics["model"])
    assert next(iter(result.metrics)) == "model"
    assert sum(images for *_, images in result.details["tables"][""]["agreement"]) == 60
    kept = Result(**json.loads(json.dumps(asdict(result))))
    sections = protocol.sections({"one": kept, "two": kept}, subject.dataset)
    for name in ("one", "two"):
        own = [section for section in sections if section.title.startswith(name)]
        assert any(section.table for section in own) and sum(len(section.figures) for section in own) >= 3


def test_several_tables(table: str, tmp_path: Path) -> None:
    """Zero-shot and one-shot answers: each as it is alone, under its name; a line for each among the hardest classes."""
    subject, better = Fake(), tmp_path / "better.csv"
    lines = [f"{number}.png,{','.join('9' if c == number % 3 else '0' for c in range(3))}" for number in range(60)]
    better.write_text("\n".join(["image,cat,dog,cow", *lines]) + "\n")
    protocol = Humans({"zero-shot": table, "one-shot": str(better)})
    result = protocol.evaluate(subject)
    for name, path in (("zero-shot", table), ("one-shot", str(better))):
        alone = Humans(path).evaluate(subject).metrics
        assert alone.pop("model") == result.metrics["model"]
        assert {f"{name}/{key}": value for key, value in alone.items()} == {
            key: value for key, value in result.metrics.items() if key.startswith(f"{name}/")
        }
    assert result.chance["one-shot/people"] == pytest.approx(1 / 3) and "one-shot/divergence" not in result.chance
    kept = Result(**json.loads(json.dumps(asdict(result))))
    first = protocol.sections({"one": kept}, subject.dataset)[0]
    assert first.table is not None and first.table.header == ("measure", "zero-shot", "one-shot")
    (axes,) = first.figures[0][1].axes
    assert [line.get_label() for line in axes.get_lines()] == ["model", "people, zero-shot", "people, one-shot"]
    heights = axes.get_lines()[0].get_ydata()
    assert list(heights) == sorted(heights, reverse=True) and len(heights) == 3


def test_refuses_what_does_not_fit(table: str, tmp_path: Path) -> None:
    subject = Fake()
    with pytest.raises(InputError, match="human counts '.*none.csv' does not exist"):
        Humans(str(tmp_path / "none.csv")).evaluate(subject)
    with pytest.raises(InputError, match="no column 'file'"):
        Humans(table, column="file").evaluate(subject)
    lines = Path(table).read_text().splitlines()
    short = tmp_path / "short.csv"
    short.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(InputError, match=r"lack 2 of 60 images, the first is '0.png'"):
        Humans(str(short)).evaluate(subject)
    odd = tmp_path / "odd.csv"
    odd.write_text("\n".join([*lines[:-1], "0.png,x,many,0,0"]) + "\n")
    with pytest.raises(InputError, match=r"'many' in column 'cow' is no count: give a number from 0"):
        Humans(str(odd)).evaluate(subject)
    silent = tmp_path / "silent.csv"
    silent.write_text("\n".join([*lines[:-1], "0.png,x,0,0,0"]) + "\n")
    with pytest.raises(InputError, match=r"nobody judged image '0.png'"):
        Humans(str(silent)).evaluate(subject)
    nothing = tmp_path / "nothing.csv"
    nothing.write_text("\n".join(["image,cow,cat,dog,unknown", *(f"{n}.png,0,0,0,3" for n in range(60))]) + "\n")
    with pytest.raises(InputError, match="nobody named a class of any image"):
        Humans(str(nothing), unknown="unknown").evaluate(subject)
