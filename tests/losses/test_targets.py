"""Several positives a row and label smoothing against plain loops, in tiles and over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from distributed.ranks import run_ranks
from reference import loops
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from lightning_clip.core.errors import InputError
from lightning_clip.losses import SigmoidContrastiveLoss, SoftmaxContrastiveLoss

# Rows 0, 3 and 5 share a caption, 1 and 2 an image, 2 and 5 another, 6 is alone; "sharing" is not transitive.
IDS = torch.tensor([[7, 1], [8, 2], [9, 2], [7, 3], [10, 4], [7, 2], [11, 5]])
POSITIVES = [{0, 3, 5}, {1, 2, 5}, {1, 2, 5}, {0, 3, 5}, {4}, {0, 1, 2, 3, 5}, {6}]


def unit(seed: int, count: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 5, generator=generator, dtype=torch.float64), dim=-1)


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("tile_size", [None, 3], ids=str)
class TestLoops:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("image_weight", [0.5, 0.75])
    def test_softmax(self, image_weight: float, smoothing: float, tile_size: int | None) -> None:
        loss = SoftmaxContrastiveLoss(image_weight, duplicates=True, label_smoothing=smoothing, tile_size=tile_size)
        found = loss(unit(0), unit(1), scalar(9.0), positives=IDS)
        expected = loops.softmax_loss_with_positives(unit(0).numpy(), unit(1).numpy(), 9.0, POSITIVES, smoothing, image_weight)
        assert found.item() == pytest.approx(expected, rel=1e-12)

    def test_sigmoid(self, tile_size: int | None) -> None:
        loss = SigmoidContrastiveLoss(duplicates=True, tile_size=tile_size)
        found = loss(unit(0), unit(1), scalar(9.0), scalar(-3.0), positives=IDS)
        expected = loops.sigmoid_loss_with_positives(unit(0).numpy(), unit(1).numpy(), 9.0, -3.0, POSITIVES)
        assert found.item() == pytest.approx(expected, rel=1e-12)

    def test_gradients_against_finite_differences(self, tile_size: int | None) -> None:
        softmax = SoftmaxContrastiveLoss(0.7, duplicates=True, label_smoothing=0.2, tile_size=tile_size)
        sigmoid = SigmoidContrastiveLoss(duplicates=True, tile_size=tile_size)
        inputs = (unit(0).requires_grad_(), unit(1).requires_grad_(), scalar(5.0).requires_grad_())
        assert torch.autograd.gradcheck(lambda *values: softmax(*values, positives=IDS), inputs)
        bias = scalar(-1.0).requires_grad_()
        assert torch.autograd.gradcheck(lambda *values: sigmoid(*values, positives=IDS), (*inputs, bias))


def test_label_smoothing_is_that_of_torch() -> None:
    images, texts = unit(0), unit(1)
    logits = 9.0 * images @ texts.T
    expected = sum(cross_entropy(part, torch.arange(7), label_smoothing=0.1) for part in (logits, logits.T)) / 2
    torch.testing.assert_close(SoftmaxContrastiveLoss(label_smoothing=0.1)(images, texts, scalar(9.0)), expected)


@pytest.mark.parametrize("loss", [SoftmaxContrastiveLoss(duplicates=True), SigmoidContrastiveLoss(duplicates=True)])
def test_rows_without_duplicates_change_nothing(loss: torch.nn.Module) -> None:
    arguments = (unit(0), unit(1), scalar(9.0), scalar(-3.0))
    assert torch.equal(loss(*arguments, positives=torch.arange(7)), loss(*arguments))


def test_identical_rows_have_the_least_loss_when_they_count() -> None:
    """Two copies of each pair: the loss falls to log 2, the entropy of the target, and has no gradient there."""
    features = torch.eye(4, dtype=torch.float64).repeat(2, 1).requires_grad_()
    loss = SoftmaxContrastiveLoss(duplicates=True)(features, features, scalar(60.0), positives=torch.arange(4).repeat(2))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == pytest.approx(np.log(2)) and gradient.abs().max() < 1e-12


def test_wrong_ids_are_refused() -> None:
    loss = SoftmaxContrastiveLoss(duplicates=True)
    with pytest.raises(InputError, match=r"positives must be int64 \(7,\) or \(7, K\) with K <= 2, .* got torch.int64 \(6,\)"):
        loss(unit(0), unit(1), scalar(9.0), positives=torch.arange(6))
    with pytest.raises(InputError, match="got torch.float32"):
        loss(unit(0), unit(1), scalar(9.0), positives=torch.ones(7))


def _sharded(rank: int, world_size: int, kind: str, sizes: list[int]) -> tuple[float, list, list, float]:
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    images, texts = unit(0)[part].clone().requires_grad_(), unit(1)[part].clone().requires_grad_()
    scale = scalar(9.0).requires_grad_()
    loss: torch.nn.Module = (
        SoftmaxContrastiveLoss(0.7, duplicates=True, label_smoothing=0.1)
        if kind == "softmax"
        else SigmoidContrastiveLoss(duplicates=True)
    )
    value = loss(images, texts, scale, scalar(-3.0), positives=IDS[part])
    (value / world_size).backward()
    assert images.grad is not None and texts.grad is not None and scale.grad is not None
    return value.item(), images.grad.tolist(), texts.grad.tolist(), scale.grad.item()


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("sizes", [[4, 3], [2, 1, 4]], ids=str)
def test_positives_on_other_ranks(kind: str, sizes: list[int]) -> None:
    ranks, (whole,) = run_ranks(_sharded, len(sizes), kind, sizes), run_ranks(_sharded, 1, kind, [7])
    assert np.mean([rank[0] for rank in ranks]) == pytest.approx(whole[0], rel=1e-12)
    for place in (1, 2):
        found = [row for rank in ranks for row in rank[place]]
        torch.testing.assert_close(torch.tensor(found), torch.tensor(whole[place]), rtol=1e-10, atol=1e-13)
    assert sum(rank[3] for rank in ranks) == pytest.approx(whole[3], rel=1e-10)
