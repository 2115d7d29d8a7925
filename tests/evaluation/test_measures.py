"""Ranks, calibration, agreement with people, corruptions and intervals against loops, scikit-learn and scipy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score
from torch.nn.functional import normalize

from lightning_clip import InputError
from lightning_clip.evaluation.comparison import bootstrap_interval, paired_bootstrap
from lightning_clip.evaluation.corruptions import CORRUPTIONS, corrupted
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.human_answers import correlation, divergence, ranked, read_answers
from lightning_clip.evaluation.protocols.humans import Humans
from lightning_clip.evaluation.protocols.zero_shot import calibration_error, class_accuracies, class_average_precision
from lightning_clip.metrics import ranking
from lightning_clip.metrics.ranking import both_ranks
from lightning_clip.metrics.scores import retrieval_scores


def dense(images: torch.Tensor, texts: torch.Tensor, owner: torch.Tensor) -> tuple[list[int], list[int], list[int]]:
    """The same by loops over the whole matrix."""
    scores = (images.double() @ texts.double().T).float()
    text_ranks = [
        1 + sum(bool(scores[i, m] >= scores[owner[m], m]) for i in range(len(images)) if i != owner[m])
        for m in range(len(texts))
    ]
    own = [
        1 + sum(bool(scores[owner[m], j] >= scores[owner[m], m]) for j in range(len(texts)) if owner[j] != owner[m])
        for m in range(len(texts))
    ]
    best = [min(own[m] for m in range(len(texts)) if owner[m] == i) for i in range(len(images))]
    return text_ranks, best, own


class TestRanks:
    @given(st.integers(1, 9), st.integers(0, 9), st.integers(0, 10**6), st.booleans())
    @settings(max_examples=60, deadline=None)
    def test_like_loops(self, images: int, more: int, seed: int, coarse: bool) -> None:
        """With and without many equal scores, in tiles of three."""
        generator = torch.Generator().manual_seed(seed)
        owner = torch.cat([torch.arange(images), torch.randint(images, (more,), generator=generator)])
        owner = owner[torch.randperm(len(owner), generator=generator)]
        values = [torch.randn(n, 3, generator=generator) for n in (images, len(owner))]
        if coarse:
            values = [value.round() for value in values]
        before, ranking._TILE = ranking._TILE, (3, 4)
        try:
            found = both_ranks(values[0], values[1], owner)
        finally:
            ranking._TILE = before
        assert tuple(part.tolist() for part in (found.text_to_image, found.image_to_text, found.own)) == dense(*values, owner)

    def test_average_precision_is_scikit_learns(self) -> None:
        generator = torch.Generator().manual_seed(0)
        images = normalize(torch.randn(30, 8, generator=generator), dim=1)
        owner = torch.arange(120) % 30
        texts = normalize(images[owner] + 1.5 * torch.randn(120, 8, generator=generator), dim=1)
        metrics, ranks = retrieval_scores(images, texts, owner)
        scores = (images @ texts.T).numpy()
        expected = np.mean([average_precision_score((owner == i).numpy(), scores[i]) for i in range(30)])
        assert float(metrics["image_to_text/mean_average_precision"]) == pytest.approx(expected, abs=1e-6)
        turned = np.mean([average_precision_score(np.arange(30) == int(owner[m]), scores[:, m]) for m in range(120)])
        assert float(metrics["text_to_image/mean_average_precision"]) == pytest.approx(turned, abs=1e-6)
        assert float(metrics["text_to_image/recall@5"]) == float((ranks["text_to_image"] <= 5).float().mean())


class TestClassification:
    def test_calibration_by_hand(self) -> None:
        logits = torch.log(torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]))
        # Bins of a tenth: 0.9 right, 0.8 wrong, 0.7 right, 0.55 wrong, one image each.
        expected = (0.1 + 0.8 + 0.3 + 0.55) / 4
        assert calibration_error(logits, torch.tensor([0, 1, 1, 0]), bins=10) == pytest.approx(expected, abs=1e-6)

    def test_multilabel(self) -> None:
        generator = torch.Generator().manual_seed(0)
        scores = torch.randn(40, 5, generator=generator)
        labels = (torch.rand(40, 5, generator=generator) < 0.3).long()
        labels[:, 4] = 0
        expected = np.mean([average_precision_score(labels[:, c].numpy(), scores[:, c].numpy()) for c in range(4)])
        assert class_average_precision(scores, labels) == pytest.approx(expected, abs=1e-6)
        with pytest.raises(InputError, match="no image has any of the classes"):
            class_average_precision(scores, torch.zeros_like(labels))

    def test_class_accuracies(self) -> None:
        assert class_accuracies(torch.tensor([[3, 1, 0], [0, 0, 0], [1, 0, 1]])) == [0.75, None, 0.5]


class TestHumans:
    def test_measures_are_scipys(self) -> None:
        rng = np.random.default_rng(0)
        first, second = (rng.dirichlet([0.5] * 6, 20) for _ in range(2))
        found = divergence(torch.tensor(first), torch.tensor(second))
        np.testing.assert_allclose(found, [jensenshannon(a, b, base=2) ** 2 for a, b in zip(first, second, strict=True)])
        a, b = rng.integers(0, 5, 30).astype(float), rng.random(30)
        assert correlation(torch.tensor(a), torch.tensor(b)) == pytest.approx(pearsonr(a, b)[0])
        assert correlation(*(ranked(torch.tensor(part)) for part in (a, b))) == pytest.approx(spearmanr(a, b)[0])
        assert correlation(torch.ones(3), torch.arange(3.0)) is None

    def test_counts_are_joined_by_name(self, tmp_path: Path) -> None:
        table = tmp_path / "counts.csv"
        table.write_text("image,cat,dog\nb/1.png,3,1\na/0.png,0,4\n")
        features = Features(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.arange(2), ["a/0.png", "b/1.png"])
        assert read_answers(str(table), ["dog", "cat"], features.keys).counts.tolist() == [[4, 0], [1, 3]]
        features.keys[:] = ["0.png", "x/1.png"]
        assert read_answers(str(table), ["cat", "dog"], features.keys).counts.tolist() == [[0, 4], [3, 1]]
        features.keys[:] = ["7.png", "1.png"]
        with pytest.raises(InputError, match=r"lack 1 of 2 images, the first is '7.png'"):
            read_answers(str(table), ["cat", "dog"], features.keys)
        with pytest.raises(InputError, match="no column 'cow'"):
            read_answers(str(table), ["cow"], features.keys)
        with pytest.raises(InputError, match="humans needs counts"):
            Humans()


class TestCorruptions:
    @pytest.mark.parametrize("name", CORRUPTIONS)
    @pytest.mark.parametrize("side", [32, 64])
    def test_strengths_rise(self, name: str, side: int) -> None:
        generator = torch.Generator().manual_seed(0)
        coarse = torch.randint(60, 190, (3, 8, 8), generator=generator, dtype=torch.uint8)
        image = torch.nn.functional.interpolate(coarse[None].float(), size=side, mode="bilinear")[0].to(torch.uint8)
        results = [corrupted(f"{name}:{strength}", image, seed=3) for strength in (1, 3, 5)]
        assert all(result.shape == image.shape and result.dtype == torch.uint8 for result in results)
        away = [(result.float() - image.float()).abs().mean() for result in results]
        assert 0 < away[0] < away[1] < away[2]
        assert torch.equal(results[1], corrupted(f"{name}:3", image, seed=3))

    def test_wrong_names(self) -> None:
        image = torch.zeros(3, 8, 8, dtype=torch.uint8)
        with pytest.raises(InputError, match="unknown corruption 'gausian_noise': did you mean 'gaussian_noise'"):
            corrupted("gausian_noise:1", image, 0)
        with pytest.raises(InputError, match="must name a strength from 1 to 5"):
            corrupted("jpeg:6", image, 0)


class TestIntervals:
    def test_of_a_share(self) -> None:
        values = [1.0] * 300 + [0.0] * 700
        found = bootstrap_interval(values)
        half = 1.96 * (0.3 * 0.7 / 1000) ** 0.5
        assert found.mean == 0.3 and abs(found.low - (0.3 - half)) < 0.004 and abs(found.high - (0.3 + half)) < 0.004
        assert bootstrap_interval(values) == found
        jittered = np.array(values) + 1e-9 * np.arange(1000)  # all different: drawn one by one
        assert bootstrap_interval(jittered) == pytest.approx(found, abs=0.003)

    def test_pairs(self) -> None:
        rng = np.random.default_rng(0)
        first = rng.random(200)
        assert paired_bootstrap(first.tolist(), first.tolist()) == (0.0, 0.0, 0.0)
        shifted = paired_bootstrap((first + 0.1).tolist(), first.tolist())
        assert shifted.low == pytest.approx(0.1) and shifted.high == pytest.approx(0.1)
        with pytest.raises(InputError, match="measured on 2 and 1 images"):
            paired_bootstrap([1, 0], [1])
        with pytest.raises(InputError, match="an interval needs values"):
            bootstrap_interval([])
