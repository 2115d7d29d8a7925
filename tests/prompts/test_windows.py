"""Classifiers of more prompts than should be held: the windows in which they are made change nothing but memory."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation import feature_provider
from lightning_clip.evaluation.cached_features import CachedSubject
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.prompts import zero_shot_classifier
from lightning_clip.prompts.classifier import template_vectors
from lightning_clip.prompts.evaluation_sets import open_evaluation_set

NAMES = ["cat", ["dog", "hound", "puppy"], "great white shark", ["cat", "lynx"], "ox"]
PATTERNS = ["{}", "a {}", "the {} there", "a {}", "art of the {}"]


def feature(text: str) -> list[float]:
    """Eight numbers of a string's own."""
    codes = text.encode()
    return [float((17 * sum(codes) + 31 * place * codes[place % len(codes)]) % 101 - 50) for place in range(8)]


class Encoder:
    """Remembers how often each prompt was encoded and the most that it was given at once."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()
        self.most = 0

    def __call__(self, texts: list[str]) -> Tensor:
        self.seen.update(texts)
        self.most = max(self.most, len(texts))
        return torch.tensor([feature(text) for text in texts])


class Weighted(Encoder):
    """With a weight that learns."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.eye(8, dtype=torch.float64).requires_grad_()

    def __call__(self, texts: list[str]) -> Tensor:
        return super().__call__(texts).double() @ self.weight


class TestWindows:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 60), st.integers(1, 9))
    def test_any_window_gives_the_same(self, window: int, batch_size: int) -> None:
        whole = zero_shot_classifier(Encoder(), NAMES, PATTERNS)
        found = zero_shot_classifier(Encoder(), NAMES, PATTERNS, batch_size, window=window)
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-6)
        vectors = template_vectors(Encoder(), NAMES, PATTERNS, batch_size, window=window)
        torch.testing.assert_close(vectors, template_vectors(Encoder(), NAMES, PATTERNS), rtol=0, atol=1e-6)
        torch.testing.assert_close(normalize(vectors.sum(dim=0), dim=1).T, found, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("window", [1, 5, 16, 17, 1000])
    def test_holds_a_window_at_most(self, window: int) -> None:
        encoder = Encoder()
        zero_shot_classifier(encoder, NAMES, PATTERNS, 1 << 30, window=window)
        assert encoder.most <= max(window, 3)  # three names of one class stand together
        # In a window a prompt that two classes or templates share is encoded once.
        assert (max(encoder.seen.values()) == 1) == (window == 1000)

    def test_memory_does_not_grow_with_classes_times_templates(self) -> None:
        names = [f"a rather long name of the class number {number}" for number in range(1500)]
        patterns = [f"the photo of kind {number} that shows {{}}" for number in range(30)]

        def ones(texts: list[str]) -> Tensor:
            return torch.ones(len(texts), 4)

        def peak(window: int) -> int:
            tracemalloc.start()
            zero_shot_classifier(ones, names, patterns, 64, window=window)
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return found

        assert peak(512) < peak(1 << 30) / 20

    def test_gradients_are_those_of_one_window(self) -> None:
        found = []
        for window in (3, 1000):
            encoder = Weighted()
            columns = zero_shot_classifier(encoder, NAMES, PATTERNS, window=window)
            torch.autograd.backward((columns * torch.arange(5)).sum())
            found.append(encoder.weight.grad)
        torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)

    def test_refuses_a_window_of_nothing(self) -> None:
        with pytest.raises(InputError, match="window 0 must be at least 1 prompt at a time"):
            zero_shot_classifier(Encoder(), NAMES, PATTERNS, window=0)
        with pytest.raises(InputError, match="window -1 must be at least 1"):
            template_vectors(Encoder(), NAMES, PATTERNS, window=-1)


class Texts(EvaluatedModel):
    """A model of texts alone."""

    scale = 1.0
    device = torch.device("cpu")

    def __init__(self) -> None:
        super().__init__("texts", 32)
        self.encoder = Encoder()

    @property
    def identity(self) -> str:
        return "texts"

    def transform(self) -> Any: ...

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]: ...

    def encode_text(self, texts: Any, batch_size: int = 256) -> Tensor:
        return normalize(self.encoder(list(texts)), dim=-1)


def test_evaluation_of_many_classes_keeps_the_classifier_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk as in memory: (D, C), where it would have kept (T, C, D)."""
    dataset = open_evaluation_set({"name": "synthetic", "held_out": True, "size": 2, "image_size": 32})
    expected = CachedSubject(Texts(), dataset, "set", tmp_path / "few").classifier(NAMES, PATTERNS)
    monkeypatch.setattr(feature_provider, "_MOST_KEPT", 24)  # of 25
    subject = CachedSubject(Texts(), dataset, "set", tmp_path / "many")
    found = subject.classifier(NAMES, PATTERNS)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert not subject._vectors and subject.classifier(NAMES, PATTERNS) is found
    assert [path.name.split("-")[0] for path in (tmp_path / "many").rglob("*.safetensors")] == ["classifier"]
    again = CachedSubject(Texts(), dataset, "set", tmp_path / "many")
    torch.testing.assert_close(again.classifier(NAMES, PATTERNS), expected, rtol=0, atol=1e-6)
    assert not again.model.encoder.seen  # type: ignore[attr-defined]  # read from disk
