"""Twins differ in one thing, their scores are Winoground's, and a model that sees all gets all."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation.hard_negatives import TWINS, make_twins, twin_scores
from lightning_clip.evaluation.protocols.compositional import Compositional


@pytest.mark.parametrize("kind", TWINS)
def test_twins_are_made_of_the_same_words(kind: str) -> None:
    seen = set()
    for number in range(40):
        images, captions = make_twins(kind, number, seed=3)
        assert captions[0] != captions[1] and not torch.equal(*images)
        words = [sorted(re.sub(r"\ban\b", "a", caption).split()) for caption in captions]
        if kind in ("order", "colours"):
            assert words[0] == words[1]
        if kind == "counts":
            assert len({*words[0]} ^ {*words[1]}) in (2, 4)  # the number, and circle or circles
        again = make_twins(kind, number, seed=3)
        assert again.captions == captions and torch.equal(again.images[1], images[1])
        seen.add(captions)
    assert len(seen) > 20


def test_scores_by_hand() -> None:
    """All orders of four scores: guessing gets 1/4, 1/4 and 1/6."""
    every = torch.tensor(list(itertools.permutations([1.0, 2.0, 3.0, 4.0]))).reshape(-1, 2, 2)
    found = twin_scores(every)
    for part, share in zip(found, (1 / 4, 1 / 4, 1 / 6), strict=True):
        assert float(part.double().mean()) == pytest.approx(share)
    for row, (a, b, c, d) in enumerate(every.reshape(-1, 4).tolist()):  # captions are rows, pictures columns
        assert bool(found.text[row]) == (a > c and d > b) and bool(found.image[row]) == (a > b and d > c)
    assert not any(bool(part.any()) for part in twin_scores(torch.ones(3, 2, 2)))


class Fake:
    """Knows which caption belongs to which picture, or nothing."""

    scale, device = 10.0, torch.device("cpu")

    def __init__(self, knows: bool) -> None:
        self.knows, self.seen = knows, 0

    def encode_images(self, images: Sequence[Tensor]) -> Tensor:
        return torch.eye(2).repeat(len(images) // 2, 1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.eye(2).repeat(len(texts) // 2, 1) if self.knows else torch.ones(len(texts), 2)


@pytest.mark.parametrize("knows", [True, False])
def test_who_knows_gets_all(knows: bool) -> None:
    protocol, subject = Compositional(size=6, image_size=32), Fake(knows)
    result = protocol.evaluate(subject)  # type: ignore[arg-type]
    assert set(result.metrics.values()) == {float(knows)}
    assert result.per_image is not None and len(result.per_image) == 6 * len(TWINS)
    assert next(iter(result.metrics)) == "text" and result.chance["counts/group"] == pytest.approx(1 / 6)
    sections = protocol.sections({"one": result, "two": result}, None)  # type: ignore[arg-type]
    assert len(sections[0].table.rows) == len(TWINS) + 1 and len(sections[1].figures) == 2 * len(TWINS)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kinds": ["colors"]}, "compositional has no kind 'colors': did you mean 'colours'"),
        ({"size": 0}, "a size from 1 .got 0."),
        ({"kinds": []}, "compositional needs kinds"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Compositional(**settings)
    with pytest.raises(InputError, match="unknown kind of twins 'shape'"):
        make_twins("shape", 0)
