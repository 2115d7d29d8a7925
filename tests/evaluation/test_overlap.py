"""Overlap against plain loops and binomial sums, and end to end with planted copies."""

from __future__ import annotations

import json
from dataclasses import asdict
from math import comb
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from subjects import BySimilarity
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.intervals import clopper_pearson
from lightning_clip.evaluation.protocols.base import Result
from lightning_clip.evaluation.protocols.overlap import Overlap
from lightning_clip.evaluation.train_test_overlap import nearest_copies, overlap_statistics
from lightning_clip.prompts.evaluation_sets import EvaluationSet


class Pictures(PairSource):
    def __init__(self, images: list[Any]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Pair:
        return Pair(self.images[index], (), f"{index}.jpg", 0)


def photographs(count: int, seed: int) -> list[Tensor]:
    """Smooth random pictures, unlike each other."""
    coarse = 255 * torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(seed))
    return list(interpolate(coarse, (96, 96), mode="bicubic").clamp(0, 255).to(torch.uint8))


def half(image: Tensor) -> Tensor:
    return interpolate(image[None].float(), (48, 48), mode="area")[0].to(torch.uint8)


def embed(images: list[Tensor]) -> Tensor:
    small = torch.stack([interpolate(image[None].float(), (4, 4), mode="area")[0].flatten() for image in images])
    return normalize(small - 127, dim=-1)


class Fake(BySimilarity):
    """A subject whose features are its pictures, small."""

    scale, device = 10.0, torch.device("cpu")

    def __init__(self, dataset: EvaluationSet, label: Tensor, index: Tensor | None = None) -> None:
        self.dataset, self.label = dataset, label
        self.index = torch.arange(len(label)) if index is None else index

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        source = self.dataset.source if split == "test" else self.dataset.train
        index = self.index if split == "test" else torch.arange(len(source))  # type: ignore[arg-type]
        vectors = embed([source[place].image for place in index.tolist()])  # type: ignore[index, misc]
        return Features(vectors, vectors, self.label if split == "test" else torch.zeros(len(index)), index)

    def classifier(self, class_names: Any = None, templates: Any = None) -> Tensor:
        weights = torch.randn(48, 2, generator=torch.Generator().manual_seed(3))
        return normalize(weights, dim=0)

    def encode_images(self, images: list[Tensor]) -> Tensor:
        return embed(images)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 15), st.integers(1, 9), st.integers(0, 999))
def test_nearest_copies_equal_loops(tests: int, trains: int, distance: int, chunk: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 256, (3, 4), np.uint8)
    test, train = (centres[rng.integers(0, 3, n)] ^ (1 << rng.integers(0, 8, (n, 4))).astype(np.uint8) for n in (tests, trains))
    place, bits = nearest_copies(test, train, distance, chunk)
    for row in range(tests):
        apart = [sum((int(a) ^ int(b)).bit_count() for a, b in zip(test[row], other, strict=True)) for other in train]
        best = min(apart, default=99)
        expected = (apart.index(best), best) if best <= distance else (-1, 32)
        assert (place[row], bits[row]) == expected


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(0, 999))
def test_statistics_equal_sums(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right, overlap = rng.random(count) < 0.6, rng.random(count) < 0.3
    found = overlap_statistics(right, overlap, 0.9)
    assert found["all"] == pytest.approx(sum(right) / count) and found["share"] == pytest.approx(sum(overlap) / count)
    seen = [bool(r) for r, o in zip(right, overlap, strict=True) if o]
    clean = [bool(r) for r, o in zip(right, overlap, strict=True) if not o]
    assert set(found) == (
        {"all", "share"}
        | ({"clean", "effect"} if clean else set())
        | ({"overlap", "low", "high"} if seen else set())
        | ({"p_value"} if clean and seen else set())
    )
    if clean:
        assert found["effect"] == pytest.approx(sum(right) / count - sum(clean) / len(clean))
    if seen:
        assert (found["low"], found["high"]) == clopper_pearson(sum(seen), len(seen), 0.9)
    if clean and seen:
        n, k, p = len(seen), sum(seen), sum(clean) / len(clean)
        assert found["p_value"] == pytest.approx(sum(comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1)))


def scene(train: bool = True) -> tuple[EvaluationSet, Tensor]:
    """Ten test pictures, 2 and 5 of which were trained on at half the size."""
    test, other = photographs(10, 0), photographs(20, 1)
    other[7], other[11] = half(test[5]), half(test[2])
    source = Pictures(other)
    dataset = EvaluationSet(Pictures(test), ["a", "b"], ["{}"], train=source if train else None)
    return dataset, torch.randint(2, (10,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("neighbours", [None, 0.99])
@pytest.mark.parametrize("named", [True, False])
def test_finds_planted_copies(named: bool, neighbours: float | None) -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene()
    assert dataset.train is not None
    extra = Pictures([b"no image", photographs(1, 9)[0]])  # what cannot be read is passed over
    protocol = Overlap([extra, "train" if named else dataset.train], neighbours=neighbours)
    result = protocol.evaluate(Fake(dataset, label))
    assert {entry[0]: entry[1] for entry in result.details["examples"]} == {5: 2 + 7, 2: 2 + 11}
    features = Fake(dataset, label).features()
    right = (features.image_features @ Fake(dataset, label).classifier()).argmax(dim=1) == label
    clean = [row for row in range(10) if row not in (2, 5)]
    assert result.metrics["share"] == pytest.approx(0.2)
    assert result.metrics["clean"] == pytest.approx(float(right[clean].double().mean()))
    assert result.per_image == right.double().tolist() and next(iter(result.metrics)) == "all"
    kept = Result(**json.loads(json.dumps(asdict(result))))
    sections = protocol.sections({"one": kept, "two": kept}, dataset)
    assert [section.title for section in sections] == [
        "Accuracy without images seen in training",
        "one: overlapping images",
    ]
    assert sections[0].table is not None and len(sections[0].table.rows) == 2


def test_neighbours_find_what_hashes_do_not() -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene()
    assert dataset.train is not None
    turned = dataset.train[7].image.roll(2, dims=-1)
    train = Pictures([turned])
    assert Overlap([train], perceptual=0).evaluate(Fake(dataset, label)).details["copies"] == 0
    result = Overlap([train], perceptual=0, neighbours=0.8).evaluate(Fake(dataset, label))
    assert [entry[:3] for entry in result.details["examples"]] == [[5, 0, 256]]


def test_places_hold_where_images_were_skipped() -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene()
    index = torch.tensor([0, 2, 3, 5, 9])
    result = Overlap(["train"]).evaluate(Fake(dataset, label[index], index))
    assert {entry[0]: entry[1] for entry in result.details["examples"]} == {2: 11, 5: 7}
    assert result.metrics["share"] == pytest.approx(2 / 5)


def test_without_overlap() -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene()
    protocol = Overlap([Pictures(photographs(3, 8))])
    result = protocol.evaluate(Fake(dataset, label))
    assert list(result.metrics) == ["all", "clean", "share", "effect"] and result.metrics["effect"] == 0
    (section,) = protocol.sections({"one": result}, dataset)
    assert section.table is not None and section.table.rows[0][3] == ""


def test_hashes_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene()
    protocol = Overlap(["train"])
    first = protocol.evaluate(Fake(dataset, label))
    monkeypatch.setattr("lightning_clip.evaluation.train_test_overlap.perceptual_hash", None)
    assert protocol.evaluate(Fake(dataset, label)) == first


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "overlap needs training"),
        ({"training": "train"}, "overlap needs training, a list"),
        ({"training": ["train"], "perceptual": 256}, "perceptual 256 is outside"),
        ({"training": ["train"], "neighbours": 12}, "neighbours 12 is no cosine"),
        ({"training": ["train"], "confidence": 99.5}, "confidence 99.5 is outside"),
    ],
)
def test_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Overlap(**settings)


def test_wrong_sets() -> None:
    pytest.importorskip("imagehash")
    dataset, label = scene(train=False)
    with pytest.raises(InputError, match="the set has no train split"):
        Overlap(["train"]).evaluate(Fake(dataset, label))
    with pytest.raises(InputError, match="omit it for a multilabel set"):
        Overlap(["train"]).evaluate(Fake(dataset, torch.zeros(10, 2, dtype=torch.int64)))
