"""N images and M texts that match by ids: loops, closed forms, symmetries, errors."""

from __future__ import annotations

import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.matched import BOTH, CASES, case, measured, relative, scalar, unit
from reference import loops
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_clip.core.errors import InputError
from lightning_clip.losses import SigmoidContrastiveLoss, SoftmaxContrastiveLoss, losses

DOCS = Path(__file__).parents[2] / "docs/concepts/losses.md"


@pytest.mark.parametrize("tile_size", [None, 2], ids=str)
@pytest.mark.parametrize("name", CASES)
class TestLoops:
    """Loss and all gradients of NumPy loops in float64, which know nothing of the package."""

    @pytest.mark.parametrize(("smoothing", "weight"), [(0.0, 0.5), (0.2, 0.75)])
    def test_softmax(self, name: str, smoothing: float, weight: float, tile_size: int | None) -> None:
        images, texts, ids, pairs = case(name)
        options = {"label_smoothing": smoothing, "image_weight": weight, "tile_size": tile_size}
        loss, found = measured({"name": "softmax", **options}, [images, texts, scalar(9.0)], ids)

        def reference(image: np.ndarray, text: np.ndarray, scale: float) -> float:
            return loops.softmax_loss_by_ids(image, text, scale, pairs, smoothing, weight)

        i, t = images.numpy(), texts.numpy()
        assert loss.item() == pytest.approx(reference(i, t, 9.0), rel=1e-12)
        assert relative(found[0], loops.gradient(lambda value: reference(value, t, 9.0), i)) <= 1e-6
        assert relative(found[1], loops.gradient(lambda value: reference(i, value, 9.0), t)) <= 1e-6
        assert relative(found[2], loops.gradient(lambda value: reference(i, t, value.item()), np.array([9.0]))) <= 1e-6

    def test_sigmoid(self, name: str, tile_size: int | None) -> None:
        images, texts, ids, pairs = case(name)
        values = [images, texts, scalar(9.0), scalar(-3.0)]
        loss, found = measured({"name": "sigmoid", "tile_size": tile_size}, values, ids)

        def reference(image: np.ndarray, text: np.ndarray, scale: float, bias: float) -> float:
            return loops.sigmoid_loss_by_ids(image, text, scale, bias, pairs)

        i, t = images.numpy(), texts.numpy()
        assert loss.item() == pytest.approx(reference(i, t, 9.0, -3.0), rel=1e-12)
        assert relative(found[0], loops.gradient(lambda value: reference(value, t, 9.0, -3.0), i)) <= 1e-6
        assert relative(found[1], loops.gradient(lambda value: reference(i, value, 9.0, -3.0), t)) <= 1e-6
        assert relative(found[2], loops.gradient(lambda value: reference(i, t, value.item(), -3.0), np.array([9.0]))) <= 1e-6
        assert relative(found[3], loops.gradient(lambda value: reference(i, t, 9.0, value.item()), np.array([-3.0]))) <= 1e-6


class TestClosedForms:
    @pytest.mark.parametrize("weight", [0.5, 0.75])
    def test_identical_features(self, weight: float) -> None:
        """Every column is as likely: log M for an image, log N for a text, whoever matches."""
        features, ids = unit(1, 0), (torch.tensor([0, 1, 2, 2]), torch.tensor([2, 2, 0, 1, 1, -1, 7]))
        loss = SoftmaxContrastiveLoss(weight)(features.expand(4, -1), features.expand(7, -1), scalar(20.0), positives=ids)
        assert loss.item() == pytest.approx(weight * math.log(7) + (1 - weight) * math.log(4), abs=1e-12)

    @pytest.mark.parametrize("scale", [0.5, 5.0, 30.0])
    def test_orthonormal_pairs_and_texts_of_nobody(self, scale: float) -> None:
        """Four texts more are in the images' sums and have none of their own."""
        texts = torch.eye(7, dtype=torch.float64)
        loss = SoftmaxContrastiveLoss(0.75)(
            texts[:3], texts, scalar(scale), positives=(torch.arange(3), torch.tensor([0, 1, 2, -1, -1, -1, -1]))
        )
        expected = 0.75 * math.log1p(6 * math.exp(-scale)) + 0.25 * math.log1p(2 * math.exp(-scale))
        assert loss.item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("bias", [-10.0, 0.0, 2.5])
    def test_zero_features(self, bias: float) -> None:
        """Five matches among three images and seven texts."""
        zeros, ids = torch.zeros(7, 8, dtype=torch.float64), (torch.arange(3), torch.tensor([0, 0, 1, 1, 2, -1, 5]))
        loss = SigmoidContrastiveLoss()(zeros[:3], zeros, scalar(10.0), scalar(bias), positives=ids)
        expected = (5 * math.log1p(math.exp(-bias)) + 16 * math.log1p(math.exp(bias))) / 3
        assert loss.item() == pytest.approx(expected, rel=1e-12)


class TestSymmetries:
    @pytest.mark.parametrize("case_name", CASES)
    @pytest.mark.parametrize("name", BOTH)
    def test_order_of_images_and_of_texts(self, name: str, case_name: str) -> None:
        images, texts, ids, _ = case(case_name)
        loss, generator = losses.build(name), torch.Generator().manual_seed(3)
        one, other = (torch.randperm(len(side), generator=generator) for side in (images, texts))
        first = loss(images, texts, scalar(7.0), scalar(-2.0), positives=ids)
        second = loss(images[one], texts[other], scalar(7.0), scalar(-2.0), positives=(ids[0][one], ids[1][other]))
        torch.testing.assert_close(second, first, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("case_name", CASES)
    def test_exchanging_the_towers(self, case_name: str) -> None:
        images, texts, ids, _ = case(case_name)
        one = SoftmaxContrastiveLoss(0.2)(images, texts, scalar(7.0), positives=ids)
        other = SoftmaxContrastiveLoss(0.8)(texts, images, scalar(7.0), positives=ids[::-1])
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
        first, second = (SigmoidContrastiveLoss()(*sides, scalar(7.0), scalar(-2.0), positives=own) * len(sides[0])
                         for sides, own in (((images, texts), ids), ((texts, images), ids[::-1])))  # fmt: skip
        torch.testing.assert_close(first, second, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("ids", [torch.arange(6), torch.tensor([[7, 1], [8, 2], [9, 2], [7, 3], [10, 4], [7, 2]])])
    @pytest.mark.parametrize("name", BOTH)
    def test_of_pairs_it_is_the_loss_of_pairs(self, name: str, ids: Tensor) -> None:
        """Ids of both sides that are those of pairs, in all that the loss of pairs offers."""
        options = {"label_smoothing": 0.1, "image_weight": 0.7} if name == "softmax" else {}
        loss = losses.build({"name": name, "duplicates": True, **options})
        arguments = (unit(6, 0), unit(6, 1), scalar(9.0), scalar(-3.0))
        torch.testing.assert_close(loss(*arguments, positives=(ids, ids)), loss(*arguments, positives=ids), rtol=1e-12, atol=0)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(BOTH),
    image_ids=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    text_ids=st.lists(st.integers(-1, 4), min_size=1, max_size=12),
    scale=st.floats(0.1, 100),
    tile_size=st.one_of(st.none(), st.integers(1, 15)),
)
def test_any_ids(name: str, image_ids: list[int], text_ids: list[int], scale: float, tile_size: int | None) -> None:
    images, texts, ids = unit(len(image_ids), 0), unit(len(text_ids), 1), (torch.tensor(image_ids), torch.tensor(text_ids))
    pairs = loops.matches([(own,) for own in image_ids], [(own,) for own in text_ids])
    loss = losses.build({"name": name, "tile_size": tile_size})
    if not pairs:
        with pytest.raises(InputError, match="positives: none of"):
            loss(images, texts, scalar(scale), scalar(-2.0), positives=ids)
        return
    found = loss(images, texts, scalar(scale), scalar(-2.0), positives=ids).item()
    arrays = images.numpy(), texts.numpy()
    expected = (
        loops.softmax_loss_by_ids(*arrays, scale, pairs)
        if name == "softmax"
        else loops.sigmoid_loss_by_ids(*arrays, scale, -2.0, pairs)
    )
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_the_example_of_the_documentation() -> None:
    """NegCLIP's loss: swapped captions are in the images' denominators alone."""
    block = re.findall(r"```python\n(loss = .*?)```", DOCS.read_text(), flags=re.S)
    names: dict[str, Any] = {
        "torch": torch,
        "SoftmaxContrastiveLoss": SoftmaxContrastiveLoss,
        "image_features": unit(4, 0),
        "text_features": unit(4, 1),
        "swapped_features": unit(4, 2),
        "scale": scalar(9.0),
        "batch": SimpleNamespace(index=torch.tensor([30, 10, 20, 40])),
    }
    exec(block[0], names)
    logits = 9.0 * names["image_features"] @ torch.cat([names["text_features"], names["swapped_features"]]).T
    expected = sum(cross_entropy(part, torch.arange(4)) for part in (logits, logits[:, :4].T)) / 2
    assert names["value"].item() == pytest.approx(float(expected), rel=1e-12)


class TestErrors:
    @pytest.mark.parametrize("name", BOTH)
    def test_images_and_texts_of_different_numbers_need_ids(self, name: str) -> None:
        message = (
            r"image_features \(4, 5\) and text_features \(8, 5\) are not pairs: .*; N images and M texts need "
            r"positives=\(image_ids, text_ids\)"
        )
        loss = losses.build(name)
        with pytest.raises(InputError, match=message):
            loss(unit(4, 0), unit(8, 1), scalar(9.0))
        with pytest.raises(InputError, match=message):
            loss(unit(4, 0), unit(8, 1), scalar(9.0), positives=torch.arange(4))

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            (
                (torch.arange(4), torch.arange(7)),
                r"text_ids must be int64 \(8,\) or \(8, K\) with K <= 2, .* torch.int64 \(7,\)",
            ),
            ((torch.arange(4.0), torch.arange(8)), r"positives: image_ids must be int64 \(4,\) .* got torch.float32 \(4,\)"),
            ((torch.ones(4, 3).long(), torch.arange(8)), r"image_ids must be int64 .* K <= 2, .* got torch.int64 \(4, 3\)"),
            (
                (torch.ones(4, 2).long(), torch.arange(8)),
                r"image_ids \(4, 2\) and text_ids \(8,\) must have the same number of ids",
            ),
            (
                (torch.arange(4),) * 3,
                r"positives must be a tensor of ids, or the two tensors \(image_ids, text_ids\), got 3 of them",
            ),
            (([0, 1, 2, 3], torch.arange(8)), r"image_ids must be a tensor, int64 \(4,\) or \(4, K\) with K <= 2, got list"),
            (
                (torch.full((4,), -1), torch.full((8,), -1)),
                r"none of 4 images shares an id with one of 8 texts: give both the same",
            ),
        ],
    )
    def test_ids(self, ids: Any, message: str) -> None:
        for loss in (SoftmaxContrastiveLoss(), SigmoidContrastiveLoss()):
            with pytest.raises(InputError, match=message):
                loss(unit(4, 0), unit(8, 1), scalar(9.0), positives=ids)

    def test_no_rows(self) -> None:
        with pytest.raises(InputError, match=r"image_features \(4, 5\) and text_features \(0, 5\) hold no pair"):
            SoftmaxContrastiveLoss()(unit(4, 0), unit(1, 0)[:0], scalar(9.0), positives=(torch.arange(4), torch.arange(0)))
