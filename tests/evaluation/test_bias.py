"""Rates by group against counts made by hand, joins of names, and class sets beside each other."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.groups import group_rates, joined_rows, largest_gap, read_groups
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.evaluation.protocols.bias import Bias
from lightning_clip.prompts.evaluation_sets import EvaluationSet

WORDS = ["person", "thief", "animal", "child"]
VECTORS = normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
WITHOUT = {"class_names": WORDS[:3], "watched": {"crime-related": ["thief"], "non-human": ["animal"]}}
WITH = {"class_names": WORDS, "watched": {"crime-related": ["thief"], "non-human": ["animal"]}}


class Fake:
    """A subject with random unit features, and a fixed vector for each word."""

    scale, device = 10.0, torch.device("cpu")

    def __init__(self, count: int = 40) -> None:
        generator = torch.Generator().manual_seed(5)
        self.vectors = normalize(torch.randn(count, 8, generator=generator), dim=-1)
        self.templates: list[Any] = []
        self.dataset = EvaluationSet(None, ["face"], ["{}"])  # type: ignore[arg-type]

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        count = len(self.vectors)
        keys = [f"faces/{number}.jpg" for number in range(count)]
        return Features(self.vectors, self.vectors, torch.zeros(count), torch.arange(count), keys)

    def classifier(self, class_names: Any = None, templates: Any = None) -> Tensor:
        self.templates.append(templates)
        return VECTORS[[WORDS.index(word) for word in class_names]].T


def write(path: Path, rows: list[dict[str, str]]) -> str:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Forty faces from last to first; of every tenth the age is not known."""
    rows = [
        {"image": f"{n}.jpg", "race": "ABC"[n % 3], "age": "" if n % 10 == 0 else ("3-9", "20-29")[n % 2]}
        for n in reversed(range(40))
    ]
    return write(tmp_path / "groups.csv", rows)


def test_equals_counts_by_hand(table: str) -> None:
    subject = Fake()
    result = Bias(table, class_sets={"without": WITHOUT, "with": WITH}).evaluate(subject)
    for name, words in (("without", WORDS[:3]), ("with", WORDS)):
        answers = [
            max(range(len(words)), key=lambda c: float(vector @ VECTORS[c])) for vector in subject.vectors.double().float()
        ]
        for category, word in (("crime-related", 1), ("non-human", 2)):
            hit = [answer == word for answer in answers]
            assert result.metrics[f"{name}/{category}"] == pytest.approx(sum(hit) / 40)
            for attribute, groups in (("race", ["A", "B", "C"]), ("age", ["3-9", "20-29"])):
                rates = result.details["rates"][attribute][category][name]
                assert [rate[0] for rate in rates] == groups
                for group, hits, images, rate, low, high in rates:
                    inside = [n for n in range(40) if _group(n, attribute) == group]
                    assert (hits, images) == (sum(hit[n] for n in inside), len(inside))
                    interval = binomtest(hits, images).proportion_ci(0.95, "wilson")
                    assert (rate, low, high) == pytest.approx((hits / images, interval.low, interval.high))
                values = [rate[3] for rate in rates]
                key = f"{name}/{category}/{attribute}"
                assert result.metrics[f"{key}/largest_difference"] == pytest.approx(max(values) - min(values))
                assert (f"{key}/largest_ratio" in result.metrics) == (min(values) > 0)
                if min(values) > 0:
                    assert result.metrics[f"{key}/largest_ratio"] == pytest.approx(max(values) / min(values))
    assert next(iter(result.metrics)) == "without/crime-related"
    assert result.per_image is not None and np.mean(result.per_image) == pytest.approx(result.metrics["without/crime-related"])


def _group(number: int, attribute: str) -> str:
    if attribute == "race":
        return "ABC"[number % 3]
    return "" if number % 10 == 0 else ("3-9", "20-29")[number % 2]


def test_another_class_takes_from_the_watched_ones(table: str) -> None:
    metrics = Bias(table, class_sets={"without": WITHOUT, "with": WITH}).evaluate(Fake()).metrics
    for category in ("crime-related", "non-human"):
        assert metrics[f"with/{category}"] < metrics[f"without/{category}"]


def test_sections_show_class_sets_beside_each_other(table: str) -> None:
    protocol = Bias(table, class_sets={"without": WITHOUT, "with": WITH})
    subject = Fake()
    kept = Result(**json.loads(json.dumps(asdict(protocol.evaluate(subject)))))
    sections = protocol.sections({"one": kept, "two": kept}, subject.dataset)
    assert [section.title for section in sections] == ["one: by race", "one: by age", "two: by race", "two: by age"]
    first = sections[0]
    assert first.table is not None and list(first.table.header) == ["category and group", "images", "without", "with"]
    assert len(first.table.rows) == 2 * (3 + 1) and [name for name, _ in first.figures] == ["without", "with"]


def test_a_category_of_one_class_set_only(table: str) -> None:
    young = {"class_names": WORDS, "watched": {"young": ["child"]}}
    protocol = Bias(table, ["age"], {"without": WITHOUT, "young": young})
    subject = Fake()
    (section,) = protocol.sections({"one": protocol.evaluate(subject)}, subject.dataset)
    assert section.table is not None
    cells = {row[0]: row[2:] for row in section.table.rows}
    assert cells["young: 3-9"][0] == "" and cells["crime-related: 3-9"][1] == ""


def test_templates_of_a_class_set(table: str) -> None:
    subject = Fake()
    Bias(table, class_sets={"own": {**WITH, "templates": "simple"}, "theirs": WITH}).evaluate(subject)
    assert subject.templates == [["a photo of a {}."], None]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["b", "a", "10", "9", ""])), min_size=1, max_size=40))
def test_group_rates_and_gap(given_rows: list[tuple[bool, str]]) -> None:
    hit, groups = np.array([row[0] for row in given_rows]), [row[1] for row in given_rows]
    rates = group_rates(hit, groups)
    assert [rate[0] for rate in rates] == [name for name in ("9", "10", "a", "b") if name in groups]
    for name, hits, images, rate, low, high in rates:
        own = [h for h, group in given_rows if group == name]
        assert (hits, images, rate) == (sum(own), len(own), sum(own) / len(own)) and 0 <= low <= rate <= high <= 1
    if rates:
        values = [rate[3] for rate in rates]
        ratio = max(values) / min(values) if min(values) else None
        assert largest_gap(rates) == (ratio, max(values) - min(values))


@pytest.mark.parametrize(
    ("images", "keys", "expected"),
    [
        (["b.jpg", "a.jpg"], ["a.jpg", "b.jpg"], [1, 0]),
        (["test/cat/0.jpg", "test/dog/0.jpg"], ["/data/test/dog/0.jpg", "/data/test/cat/0.jpg"], [1, 0]),
        (["/far/b.jpg", "/far/a.jpg"], ["near/a.jpg", "near/b.jpg", "near/c.jpg"], [1, 0]),
        ([], [], []),
    ],
)
def test_joins(images: list[str], keys: list[str], expected: list[int]) -> None:
    assert joined_rows(images, keys).tolist() == expected


@pytest.mark.parametrize(
    ("images", "keys"),
    [
        (["a.jpg", "b.jpg", "z.jpg"], ["a.jpg", "b.jpg"]),
        (["a.jpg", "z.jpg"], ["a.jpg", "x/z.jpg", "y/z.jpg"]),
        (["x/z.jpg", "y/z.jpg"], ["x/z.jpg"]),  # the second is not the first, though their files are called alike
    ],
)
def test_images_that_are_not_surely_there(images: list[str], keys: list[str]) -> None:
    with pytest.raises(InputError, match=rf"1 of {len(images)} images .* the first is '{images[-1]}'"):
        joined_rows(images, keys)


def test_wrong_tables(tmp_path: Path) -> None:
    row = {"image": "1.jpg", "race": "A"}
    good = write(tmp_path / "good.csv", [row])
    assert read_groups(good, "image", []) == (["1.jpg"], {"race": ["A"]})
    with pytest.raises(InputError, match="table of groups '.*none.csv' does not exist"):
        read_groups(str(tmp_path / "none.csv"), "image", [])
    with pytest.raises(InputError, match="no column 'file'"):
        read_groups(good, "file", [])
    with pytest.raises(InputError, match="no column 'rac': did you mean 'race'"):
        read_groups(good, "image", ["rac"])
    with pytest.raises(InputError, match="2 rows for image '1.jpg'"):
        read_groups(write(tmp_path / "twice.csv", [row, row]), "image", [])
    (tmp_path / "empty.csv").write_text("image,race\n")
    with pytest.raises(InputError, match="has no row"):
        read_groups(str(tmp_path / "empty.csv"), "image", [])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_sets": {"x": WITH}}, "bias needs groups"),
        ({"groups": "g.csv"}, "bias needs groups, .* and class_sets"),
        ({"groups": "g.csv", "class_sets": {"x": WITH}, "confidence": 95}, "confidence 95 is outside"),
        ({"groups": "g.csv", "class_sets": {"x": {"class_names": WORDS}}}, "class set 'x' needs class_names"),
        (
            {"groups": "g.csv", "class_sets": {"x": {**WITH, "template": "{}"}}},
            "no setting 'template': did you mean 'templates'",
        ),
        (
            {"groups": "g.csv", "class_sets": {"x": {**WITH, "watched": {"crime": ["theif"]}}}},
            "'theif', .* did you mean 'thief'",
        ),
        ({"groups": "g.csv", "class_sets": {"x": {**WITH, "watched": {"crime": "thief"}}}}, "watches 'thief', not a list"),
        ({"groups": "g.csv", "class_sets": {"x": {**WITH, "watched": {"crime": []}}}}, "'crime' watches \\[\\]"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Bias(**settings)
