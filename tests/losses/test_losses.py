"""Losses in four layers of truth: loops, closed forms, symmetries, shards; and open_clip's own classes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from distributed.ranks import run_ranks
from reference import loops
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.losses import ContrastiveLoss, SigmoidContrastiveLoss, SoftmaxContrastiveLoss, losses

BOTH = ["softmax", "sigmoid"]


def unit(count: int, width: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def scalar(value: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor([value], dtype=dtype)


class TestLoops:
    @pytest.mark.parametrize("image_weight", [0.0, 0.5, 0.75, 1.0])
    @pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
    def test_softmax(self, image_weight: float, scale: float) -> None:
        images, texts = unit(7, 5, 0), unit(7, 5, 1)
        found = SoftmaxContrastiveLoss(image_weight=image_weight)(images, texts, scalar(scale))
        assert found.item() == pytest.approx(loops.softmax_loss(images.numpy(), texts.numpy(), scale, image_weight), rel=1e-12)

    @pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (10.0, -10.0), (50.0, 3.0)])
    def test_sigmoid(self, scale: float, bias: float) -> None:
        images, texts = unit(7, 5, 0), unit(7, 5, 1)
        found = SigmoidContrastiveLoss()(images, texts, scalar(scale), scalar(bias))
        assert found.item() == pytest.approx(loops.sigmoid_loss(images.numpy(), texts.numpy(), scale, bias), rel=1e-12)

    @pytest.mark.parametrize("name", BOTH)
    def test_gradients_against_finite_differences(self, name: str) -> None:
        loss = losses.build(name)
        images, texts = unit(4, 3, 0).requires_grad_(), unit(4, 3, 1).requires_grad_()
        scale, bias = scalar(5.0).requires_grad_(), scalar(-1.0).requires_grad_()
        arguments = (images, texts, scale, bias) if name == "sigmoid" else (images, texts, scale)
        assert torch.autograd.gradcheck(loss, arguments)


class TestClosedForms:
    @pytest.mark.parametrize("count", [1, 2, 33])
    def test_identical_features_give_log_n(self, count: int) -> None:
        features = unit(1, 8, 0).repeat(count, 1)
        assert SoftmaxContrastiveLoss()(features, features, scalar(20.0)).item() == pytest.approx(math.log(count), abs=1e-12)

    @pytest.mark.parametrize("scale", [0.5, 5.0, 30.0])
    def test_orthonormal_pairs(self, scale: float) -> None:
        features = torch.eye(6, dtype=torch.float64)
        expected = math.log1p(5 * math.exp(-scale))
        assert SoftmaxContrastiveLoss()(features, features, scalar(scale)).item() == pytest.approx(expected, rel=1e-9)

    @pytest.mark.parametrize("bias", [-10.0, 0.0, 2.5])
    def test_zero_features(self, bias: float) -> None:
        zeros = torch.zeros(5, 8, dtype=torch.float64)
        expected = math.log1p(math.exp(-bias)) + 4 * math.log1p(math.exp(bias))
        assert SigmoidContrastiveLoss()(zeros, zeros, scalar(10.0), scalar(bias)).item() == pytest.approx(expected, rel=1e-12)


class TestSymmetries:
    @pytest.mark.parametrize("name", BOTH)
    def test_order_of_pairs(self, name: str) -> None:
        images, texts, order = unit(9, 4, 0), unit(9, 4, 1), torch.randperm(9, generator=torch.Generator().manual_seed(2))
        loss = losses.build(name)
        first = loss(images, texts, scalar(7.0), scalar(-2.0))
        torch.testing.assert_close(loss(images[order], texts[order], scalar(7.0), scalar(-2.0)), first, rtol=1e-12, atol=0)

    @pytest.mark.parametrize("weight", [0.2, 0.5])
    def test_exchanging_the_towers(self, weight: float) -> None:
        images, texts = unit(9, 4, 0), unit(9, 4, 1)
        one = SoftmaxContrastiveLoss(image_weight=weight)(images, texts, scalar(7.0))
        other = SoftmaxContrastiveLoss(image_weight=1 - weight)(texts, images, scalar(7.0))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)

    def test_softmax_does_not_feel_a_bias(self) -> None:
        images, texts = unit(9, 4, 0), unit(9, 4, 1)
        loss = SoftmaxContrastiveLoss()
        torch.testing.assert_close(loss(images, texts, scalar(7.0), scalar(3.0)), loss(images, texts, scalar(7.0)))


def _sharded(rank: int, world_size: int, name: str, sizes: list[int]) -> tuple[float, list, list, float]:
    """Loss and gradients of one rank, as DDP would average them."""
    start = sum(sizes[:rank])
    part = slice(start, start + sizes[rank])
    images = unit(sum(sizes), 6, 0)[part].clone().requires_grad_()
    texts = unit(sum(sizes), 6, 1)[part].clone().requires_grad_()
    scale, bias = scalar(9.0).requires_grad_(), scalar(-3.0).requires_grad_()
    loss = losses.build(name)(images, texts, scale, bias)
    (loss / world_size).backward()
    assert images.grad is not None and texts.grad is not None and scale.grad is not None
    return loss.item(), images.grad.tolist(), texts.grad.tolist(), scale.grad.item()


class TestShards:
    @pytest.mark.parametrize("name", BOTH)
    @pytest.mark.parametrize("sizes", [[4, 4], [3, 5], [2, 3, 1]], ids=str)
    def test_ranks_with_different_shards_equal_one_process(self, name: str, sizes: list[int]) -> None:
        ranks = run_ranks(_sharded, len(sizes), name, sizes)
        images, texts = unit(sum(sizes), 6, 0).requires_grad_(), unit(sum(sizes), 6, 1).requires_grad_()
        scale = scalar(9.0).requires_grad_()
        whole = losses.build(name)(images, texts, scale, scalar(-3.0))
        whole.backward()
        assert np.mean([loss for loss, *_ in ranks]) == pytest.approx(whole.item(), rel=1e-12)
        for place, expected in ((1, images.grad), (2, texts.grad)):
            found = torch.tensor([row for rank in ranks for row in rank[place]], dtype=torch.float64)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13)
        assert sum(rank[3] for rank in ranks) == pytest.approx(scale.grad.item(), rel=1e-10)  # type: ignore[union-attr]

    def test_evaluation_mode_stays_on_its_rank(self) -> None:
        run_ranks(_evaluates_alone, 2)


def _evaluates_alone(rank: int, world_size: int) -> None:
    if rank == 0:  # a collective here would wait for the other rank until the test's time is over
        images, texts = unit(3, 6, 0), unit(3, 6, 1)
        found = SoftmaxContrastiveLoss().eval()(images, texts, scalar(9.0))
        assert found.item() == pytest.approx(loops.softmax_loss(images.numpy(), texts.numpy(), 9.0))


class TestPeer:
    def test_open_clip_softmax(self) -> None:
        from open_clip.loss import ClipLoss

        images, texts = unit(16, 32, 0, torch.float32), unit(16, 32, 1, torch.float32)
        found = SoftmaxContrastiveLoss()(images, texts, torch.tensor([14.3]))
        torch.testing.assert_close(found, ClipLoss()(images, texts, torch.tensor(14.3)), rtol=1e-6, atol=1e-6)

    def test_open_clip_sigmoid(self) -> None:
        from open_clip.loss import SigLipLoss

        images, texts = unit(16, 32, 0, torch.float32), unit(16, 32, 1, torch.float32)
        found = SigmoidContrastiveLoss()(images, texts, torch.tensor([10.0]), torch.tensor([-10.0]))
        expected = SigLipLoss()(images, texts, torch.tensor(10.0), torch.tensor(-10.0))
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", losses.names())
class TestContract:
    """What every registered loss must do."""

    def test_scalar_with_gradients_in_float32(self, name: str) -> None:
        loss = losses.build(name)
        images = unit(5, 8, 0, torch.bfloat16).requires_grad_()
        texts = unit(5, 8, 1, torch.bfloat16).requires_grad_()
        bias = None if loss.initial_bias is None else torch.tensor([loss.initial_bias])
        value = loss(images, texts, torch.tensor([loss.initial_scale]), bias)
        value.backward()
        assert value.shape == () and value.dtype == torch.float32 and value.isfinite()
        assert images.grad is not None and images.grad.isfinite().all() and images.grad.abs().sum() > 0

    def test_mapping_builds_it_again_and_it_has_no_weights(self, name: str) -> None:
        loss = losses.build(name)
        again = losses.build(losses.describe(loss))
        assert type(again) is type(loss) and losses.describe(again) == losses.describe(loss)
        assert not loss.state_dict() and isinstance(loss, ContrastiveLoss)

    def test_wrong_features_are_refused(self, name: str) -> None:
        loss, scale = losses.build(name), torch.ones(1)
        with pytest.raises(InputError, match=r"\(4, 8\) and text_features \(4, 6\) differ in width: give both"):
            loss(torch.ones(4, 8), torch.ones(4, 6), scale)
        with pytest.raises(InputError, match=r"\(4, 8\) and text_features \(3, 8\) are not pairs"):
            loss(torch.ones(4, 8), torch.ones(3, 8), scale)
        with pytest.raises(InputError, match="must both be"):
            loss(torch.ones(8), torch.ones(8), scale)
        with pytest.raises(InputError, match="hold no pair"):
            loss(torch.ones(0, 8), torch.ones(0, 8), scale)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"image_weight 1.5 must be in \[0, 1\]"):
        SoftmaxContrastiveLoss(image_weight=1.5)
    with pytest.raises(InputError, match=r"initial_scale 200.0 must be in \(0, max_scale\]"):
        SoftmaxContrastiveLoss(initial_scale=200.0)
    with pytest.raises(InputError, match="unknown loss 'sofmax': did you mean 'softmax'"):
        losses.build("sofmax")
    with pytest.raises(InputError, match="loss 'softmax' has no setting 'image_weigth': did you mean 'image_weight'"):
        losses.build({"name": "softmax", "image_weigth": 0.5})
