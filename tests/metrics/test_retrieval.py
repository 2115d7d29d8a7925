"""Retrieval against plain loops, exact chance levels, symmetries and real ranks."""

from __future__ import annotations

import itertools
import re
import statistics
from typing import Any
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
from distributed.ranks import run_ranks
from hypothesis import given, settings
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_clip.core.errors import InputError
from lightning_clip.metrics import RetrievalRecall, retrieval_chance, retrieval_metrics, retrieval_ranks

NAN = float("nan")


def pairs(images: int, captions: int, seed: int = 0, width: int = 6, levels: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Image features (N, D), text features (M, D) and the image of each text; each image has at least one of M >= N.

    With `levels`, features are small whole numbers, so that many similarities are equal.
    """
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(images, width, generator=generator)
    text = torch.randn(captions, width, generator=generator)
    if levels:
        image, text = (image * levels).round(), (text * levels).round()
    else:
        image, text = normalize(image, dim=-1), normalize(text, dim=-1)
    more = torch.randint(images, (captions - images,), generator=generator)
    order = torch.randperm(captions, generator=generator)
    return image, text, torch.cat([torch.arange(images), more])[order]


def rank_loops(queries: Tensor, targets: Tensor, query_ids: Tensor, target_ids: Tensor) -> list[int]:
    ranks = []
    for query, own in zip(queries.double().tolist(), query_ids.tolist(), strict=True):
        scores = [sum(a * b for a, b in zip(query, target, strict=True)) for target in targets.double().tolist()]
        named = list(zip(scores, target_ids.tolist(), strict=True))
        best = max(score for score, name in named if name == own)
        ranks.append(1 + sum(score >= best for score, name in named if name != own))
    return ranks


def metric_loops(image: Tensor, text: Tensor, belongs: Tensor, ks: tuple[int, ...] = (1, 5, 10)) -> dict[str, float]:
    index = torch.arange(len(image))
    directions = {
        "image_to_text": rank_loops(image, text, index, belongs),
        "text_to_image": rank_loops(text, image, belongs, index),
    }
    result: dict[str, float] = {}
    for direction, ranks in directions.items():
        for k in ks:
            result[f"{direction}/recall@{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        result[f"{direction}/median_rank"] = statistics.median(ranks)
    return result


def assert_same(found: dict[str, Tensor], expected: dict[str, Any]) -> None:
    assert {key: float(value) for key, value in found.items()} == pytest.approx(
        {key: float(value) for key, value in expected.items()}, abs=1e-6
    )


class TestRanks:
    @settings(deadline=None, max_examples=40)
    @given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 2), st.integers(0, 1000), st.integers(1, 20))
    def test_equal_loops(self, images: int, more: int, levels: int, seed: int, chunk_size: int) -> None:
        image, text, belongs = pairs(images, images + more, seed, levels=levels)
        index = torch.arange(images)
        found = retrieval_ranks(image, text, index, belongs, chunk_size=chunk_size)
        assert found.dtype == torch.int64
        assert found.tolist() == rank_loops(image, text, index, belongs)
        assert retrieval_ranks(text, image, belongs, index, chunk_size).tolist() == rank_loops(text, image, belongs, index)

    @pytest.mark.parametrize(("count", "width", "chunk_size"), [(37, 5, 4), (301, 129, 64), (515, 512, 512)])
    def test_a_collapsed_model_comes_last(self, count: int, width: int, chunk_size: int) -> None:
        same = normalize(torch.randn(1, width), dim=-1).expand(count, width)
        index = torch.arange(count)
        assert retrieval_ranks(same, same.contiguous(), index, index, chunk_size).tolist() == [count] * count

    def test_own_targets_do_not_count_against_each_other(self) -> None:
        same, ids = torch.ones(4, 3), torch.tensor([0, 0, 0, 1])
        assert retrieval_ranks(torch.ones(2, 3), same, torch.tensor([0, 1]), ids).tolist() == [2, 4]

    def test_never_holds_all_similarities(self) -> None:
        image, text, belongs = pairs(50, 200)
        shapes: list[tuple[int, ...]] = []

        class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = func(*args, **(kwargs or {}))
                shapes.extend(tuple(t.shape) for t in [result] if isinstance(t, Tensor))
                return result

        with Watch():  # type: ignore[no-untyped-call]
            retrieval_ranks(image, text, torch.arange(50), belongs, chunk_size=7)
        assert (7, 200) in shapes
        assert max(torch.Size(shape).numel() for shape in shapes) <= 200 * 7

    def test_precision_of_the_user_s_matmul_does_not_matter(self) -> None:
        image, text, belongs = pairs(40, 40)
        expected = rank_loops(image.bfloat16(), text.bfloat16(), torch.arange(40), belongs)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = retrieval_ranks(image.bfloat16(), text.bfloat16(), torch.arange(40), belongs)
        assert found.tolist() == expected

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"query_features": torch.ones(3)}, "query features (3,) and their ids (3,)"),
            ({"query_ids": torch.arange(2)}, "query features (3, 2) and their ids (2,)"),
            ({"target_ids": torch.arange(3.0)}, "and their ids (3,) of torch.float32 must be (N, D) and integers (N,)"),
            ({"target_features": torch.ones(3, 4)}, "query features are 2 wide and target features 4"),
            ({"query_features": torch.full((3, 2), NAN)}, "query features hold NaN or infinite"),
            ({"target_features": torch.full((3, 2), NAN)}, "target features hold NaN or infinite"),
            ({"target_features": torch.full((3, 2), -torch.inf)}, "target features hold NaN or infinite"),
            ({"query_features": torch.ones(0, 2), "query_ids": torch.arange(0)}, "there are no query features"),
            ({"target_features": torch.ones(0, 2), "target_ids": torch.arange(0)}, "there are no target features"),
            ({"query_ids": torch.tensor([0, 1, 8])}, "query 8 has no target of the same id"),
            ({"chunk_size": 0}, "chunk_size 0 must be at least 1"),
        ],
    )
    def test_refuses(self, change: dict[str, Any], message: str) -> None:
        good: dict[str, Any] = {
            "query_features": torch.ones(3, 2),
            "target_features": torch.ones(3, 2),
            "query_ids": torch.arange(3),
            "target_ids": torch.arange(3),
        }
        with pytest.raises(InputError, match=re.escape(message)):
            retrieval_ranks(**{**good, **change})


class TestMetrics:
    @settings(deadline=None, max_examples=25)
    @given(st.integers(1, 12), st.integers(0, 20), st.integers(0, 2), st.integers(0, 1000))
    def test_equal_loops(self, images: int, more: int, levels: int, seed: int) -> None:
        given_pairs = pairs(images, images + more, seed, levels=levels)
        assert_same(retrieval_metrics(*given_pairs), metric_loops(*given_pairs))

    def test_order_and_numbers_change_nothing(self) -> None:
        image, text, belongs = pairs(10, 30)
        images, texts, numbers = torch.randperm(10), torch.randperm(30), torch.randint(-(2**62), 2**62, (10,))
        found = retrieval_metrics(image[images], text[texts], numbers[belongs][texts], (1, 5, 10), image_index=numbers[images])
        assert_same(found, metric_loops(image, text, belongs))

    def test_one_caption_each_is_symmetric(self) -> None:
        image, text, _ = pairs(20, 20)
        one, other = (retrieval_metrics(*sides, torch.arange(20)) for sides in ((image, text), (text, image)))
        for key in ("recall@1", "recall@5", "recall@10", "median_rank"):
            assert one[f"image_to_text/{key}"] == other[f"text_to_image/{key}"]

    def test_recall_grows_with_k_to_one(self) -> None:
        found = retrieval_metrics(*pairs(10, 30), ks=(1, 2, 4, 8, 30))
        for direction in ("image_to_text", "text_to_image"):
            values = [found[f"{direction}/recall@{k}"].item() for k in (1, 2, 4, 8, 30)]
            assert values == sorted(values) and values[-1] == 1.0

    @pytest.mark.parametrize(
        ("images", "index", "belongs", "message"),
        [
            (3, None, [0, 1, 1], "image 2 has no caption"),
            (2, None, [0, 1, 5], "caption 2 belongs to image 5, which is not given"),
            (3, [4, 7, 4], [4, 4, 7], "image 4 was given 2 times"),
            (0, None, [0, 1, 1], "there are no image features"),
            (2, None, [], "there are no text features"),
            (2, [0, 1, 2], [0, 1], "image features (2, 2) and their ids (3,)"),
        ],
    )
    def test_refuses(self, images: int, index: list[int] | None, belongs: list[int], message: str) -> None:
        numbers = None if index is None else torch.tensor(index)
        whose = torch.tensor(belongs, dtype=torch.long)
        with pytest.raises(InputError, match=re.escape(message)):
            retrieval_metrics(torch.ones(images, 2), torch.ones(len(belongs), 2), whose, image_index=numbers)

    @pytest.mark.parametrize("ks", [(), (0, 1)], ids=str)
    def test_refuses_cut_offs(self, ks: tuple[int, ...]) -> None:
        for call in (
            lambda: RetrievalRecall(ks),
            lambda: retrieval_chance(torch.arange(3), ks),
            lambda: retrieval_metrics(torch.eye(3), torch.eye(3), torch.arange(3), ks),
        ):
            with pytest.raises(InputError, match=re.escape(f"ks {ks} must be one or more cut-offs")):
                call()

    def test_refuses_diverged_features(self) -> None:
        with pytest.raises(InputError, match="image features hold NaN"):
            retrieval_metrics(torch.full((2, 2), NAN), torch.ones(2, 2), torch.arange(2))
        with pytest.raises(InputError, match="text features hold NaN"):
            retrieval_metrics(torch.ones(2, 2), torch.full((2, 2), NAN), torch.arange(2))


class TestChance:
    @pytest.mark.parametrize("belongs", [[0, 1, 2, 3], [0, 0, 1, 1], [3, 9, 3, 3, 7]], ids=str)
    def test_equals_the_mean_over_all_rankings(self, belongs: list[int]) -> None:
        ks, images = (1, 2, 3, 10), sorted(set(belongs))
        found = retrieval_chance(torch.tensor(belongs), ks)
        rankings = list(itertools.permutations(belongs))
        for k in ks:
            hits = [image in ranking[:k] for ranking in rankings for image in images]
            assert found[f"image_to_text/recall@{k}"] == pytest.approx(sum(hits) / len(hits), abs=1e-12)
            shown = [own in ranking[:k] for ranking in itertools.permutations(images) for own in belongs]
            assert found[f"text_to_image/recall@{k}"] == pytest.approx(sum(shown) / len(shown), abs=1e-12)

    def test_is_what_random_features_score(self) -> None:
        image, text, belongs = pairs(400, 2000, width=64)
        expected = retrieval_chance(belongs)
        found = retrieval_metrics(image, text, belongs)
        for key, value in expected.items():
            assert found[key].item() == pytest.approx(value, abs=0.02)

    def test_large_sets(self) -> None:
        found = retrieval_chance(torch.arange(5000).repeat_interleave(5), (1, 10, 10**6))
        assert found["image_to_text/recall@1"] == 5 / 25000
        assert found["image_to_text/recall@10"] == pytest.approx(10 * 5 / 25000, rel=1e-3)
        assert found["image_to_text/recall@1000000"] == found["text_to_image/recall@1000000"] == 1.0

    def test_refuses_nothing(self) -> None:
        with pytest.raises(InputError, match="text_image_index is empty"):
            retrieval_chance(torch.arange(0))


class TestMetric:
    def test_batches_equal_the_whole(self) -> None:
        image, text, belongs = pairs(9, 20)
        metric = RetrievalRecall()
        for part in (slice(0, 4), slice(4, 4), slice(4, 9)):
            texts = torch.isin(belongs, torch.arange(9)[part])
            metric.update(image[part], torch.arange(9)[part].int(), text[texts], belongs[texts])
        assert_same(metric.compute(), metric_loops(image, text, belongs))
        metric.reset()
        metric.update(torch.eye(2), torch.arange(2), torch.eye(2), torch.arange(2))
        assert metric.compute()["text_to_image/recall@1"].item() == 1.0

    def test_keeps_no_graph(self) -> None:
        metric = RetrievalRecall()
        features = torch.eye(3, dtype=torch.bfloat16).requires_grad_() * 2
        metric.update(features, torch.arange(3), features, torch.arange(3))
        for kept in (metric.image_features[0], metric.text_features[0]):
            assert not kept.requires_grad and kept.dtype == torch.float32

    @pytest.mark.filterwarnings("ignore:The ``compute`` method")  # of a rank without images
    @pytest.mark.parametrize("sizes", [(3, 8), (11, 0), (0, 11), (2, 4, 5)], ids=str)
    def test_uneven_ranks_equal_one_process(self, sizes: tuple[int, ...]) -> None:
        image, text, belongs = pairs(11, 30)
        number = torch.arange(11) * 10**12 - 5

        def share(rank: int, world_size: int) -> list[dict[str, Tensor]]:
            metric = RetrievalRecall()
            mine = torch.arange(sum(sizes[:rank]), sum(sizes[: rank + 1]))
            results = []
            for part in torch.split(mine, 2) if len(mine) else ():
                texts = torch.isin(belongs, part)
                metric.update(image[part], number[part], text[texts], number[belongs[texts]])
            for _ in range(2):  # the local states come back after the exchange
                results.append(metric.compute())
                metric._computed = None
            return results

        for found in run_ranks(share, len(sizes)):
            for result in found:
                assert_same(result, metric_loops(image, text, belongs))

    def test_an_image_on_two_ranks_is_refused_on_both(self) -> None:
        def share(rank: int, world_size: int) -> str:
            metric = RetrievalRecall()
            metric.update(torch.eye(2), torch.tensor([rank, 7]), torch.eye(2), torch.tensor([rank, 7]))
            with pytest.raises(InputError) as caught:
                metric.compute()
            return str(caught.value)

        for message in run_ranks(share, 2):
            assert message.startswith("image 7 was given 2 times: evaluate each image once")

    @pytest.mark.filterwarnings("ignore:The ``compute`` method")
    def test_refuses_to_compute_on_nothing(self) -> None:
        with pytest.raises(InputError, match="there are no image features"):
            RetrievalRecall().compute()
        for message in run_ranks(_nothing, 2):
            assert message.startswith("there are no image features")

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            (0, torch.ones(2), "image features (2,) and their ids (2,)"),
            (1, torch.arange(3), "image features (2, 2) and their ids (3,)"),
            (2, torch.ones(1, 2), "text features (1, 2) and their ids (2,)"),
            (3, torch.ones(2), "of torch.float32 must be (N, D) and integers (N,)"),
        ],
    )
    def test_update_refuses(self, place: int, value: Tensor, message: str) -> None:
        given_values = [torch.ones(2, 2), torch.arange(2), torch.ones(2, 2), torch.arange(2)]
        given_values[place] = value
        with pytest.raises(InputError, match=re.escape(message)):
            RetrievalRecall().update(*given_values)


def _nothing(rank: int, world_size: int) -> str:
    with pytest.raises(InputError) as caught, mock.patch("warnings.warn"):
        RetrievalRecall().compute()
    return str(caught.value)
