"""Ranks from a matrix of scores: those of loops, and of features where the scores are their inner products."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from lightning_clip import InputError
from lightning_clip.metrics.dense_ranks import ranks_of_scores
from lightning_clip.metrics.scores import matrix_scores, retrieval_scores


def test_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole numbers, so that many are equal."""
    monkeypatch.setattr("lightning_clip.metrics.dense_ranks._ROWS", 4)
    torch.manual_seed(0)
    owner = torch.cat([torch.arange(7), torch.randint(0, 7, (12,))])
    scores = torch.randint(0, 6, (7, 19)).float()
    found = ranks_of_scores(scores, owner)
    for caption, image in enumerate(owner.tolist()):
        own = scores[image, caption]
        assert found.text_to_image[caption] == 1 + sum(scores[i, caption] >= own for i in range(7) if i != image)
        assert found.own[caption] == 1 + sum(scores[image, c] >= own for c in range(19) if owner[c] != image)
    for image in range(7):
        assert found.image_to_text[image] == min(found.own[c] for c in range(19) if owner[c] == image)


def test_inner_products_rank_as_features() -> None:
    torch.manual_seed(1)
    images, texts = normalize(torch.randn(9, 5), dim=1), normalize(torch.randn(30, 5), dim=1)
    index, owner = torch.randperm(40)[:9], torch.cat([torch.arange(9), torch.randint(0, 9, (21,))])
    expected = retrieval_scores(images, texts, index[owner], image_index=index)
    found = matrix_scores((images.double() @ texts.double().T).float(), index[owner], image_index=index)
    assert all(torch.equal(found[1][name], expected[1][name]) for name in expected[1])
    assert {name: float(value) for name, value in found[0].items()} == {name: float(v) for name, v in expected[0].items()}


@pytest.mark.parametrize(
    ("scores", "owner", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 1]), r"text features \(3, 2\) and their ids \(2,\)"),
        (torch.full((2, 2), torch.nan), torch.tensor([0, 1]), "image features hold NaN or infinite values"),
        (torch.zeros(2, 2), torch.tensor([0, 0]), "image 1 has no caption"),
    ],
)
def test_mistakes(scores: torch.Tensor, owner: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        matrix_scores(scores, owner)
