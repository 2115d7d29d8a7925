"""N images and M texts in float32 and less: what the losses of pairs promise holds for them too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from losses.matched import BOTH, case, measured, relative, scalar, unit
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.core.errors import InputError
from lightning_clip.losses import losses


def dense(name: str, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, matches: Tensor) -> Tensor:
    """In float64 over the whole matrix, for rows with at most one match, which never enters its own log-sum."""
    logits = scale * images @ texts.T
    if name == "sigmoid":
        return softplus((logits + bias) * (1 - 2 * matches.double()), threshold=100).sum() / len(images)
    total = logits.new_zeros(())
    for values, own in ((logits, matches), (logits.T, matches.T)):
        rows, columns = own.nonzero().unbind(1)
        others = values.masked_fill(own, -torch.inf).logsumexp(dim=1)[rows]
        total = total + 0.5 * softplus(others - values[rows, columns], threshold=100).mean()
    return total


def compare(
    name: str, images: Tensor, texts: Tensor, scale: float, bias: float, texts_of: Tensor, limit: float, **options: Any
) -> Tensor:
    """float32 or less against float64 of the same values; `texts_of` is the image of each text or -1."""
    ids = torch.arange(len(images)), texts_of
    values = [images, texts, torch.tensor([scale]), torch.tensor([bias])]
    loss, found = measured({"name": name, **options}, values, ids)
    inputs = [value.double().requires_grad_() for value in values]
    expected = dense(name, *inputs, ids[0][:, None] == texts_of)
    expected.backward()
    assert relative(loss, expected.detach()) <= limit
    for value, reference in zip(found, inputs, strict=True):
        if value is not None and reference.grad is not None:
            assert relative(value, reference.grad) <= limit
    return expected.detach()


@pytest.mark.parametrize("tile_size", [None, 100], ids=str)
@pytest.mark.parametrize("name", BOTH)
class TestFloat32:
    """Relative error of loss and all gradients at most 1e-6, as of the losses of pairs."""

    def texts_of(self, images: int, others: int) -> Tensor:
        order = torch.randperm(images + others, generator=torch.Generator().manual_seed(4))
        return torch.cat([torch.arange(images), torch.full((others,), -1)])[order]

    @pytest.mark.parametrize("scale", [14.3, 100.0])
    def test_random_features(self, name: str, scale: float, tile_size: int | None) -> None:
        texts_of = self.texts_of(150, 200)
        compare(name, unit(150, 0, 64).float(), unit(350, 1, 64).float(), scale, -10.0, texts_of, 1e-6, tile_size=tile_size)

    def test_a_converged_batch_keeps_its_gradient(self, name: str, tile_size: int | None) -> None:
        texts_of = self.texts_of(200, 56)
        images, texts = torch.eye(256)[:200], torch.eye(256)[texts_of.where(texts_of >= 0, 200 + texts_of.cumsum(0) % 56)]
        scale, bias = (40.0, 0.0) if name == "softmax" else (100.0, -50.0)
        expected = compare(name, images, texts, scale, bias, texts_of, 1e-6, tile_size=tile_size)
        assert 0 < expected < 1e-12

    def test_beyond_the_reach_of_one_exponential(self, name: str, tile_size: int | None) -> None:
        images, texts = unit(150, 0, 4).float(), -unit(150, 0, 4).float()
        compare(name, images, texts.repeat(2, 1), 400.0, 0.0, self.texts_of(150, 150), 1e-6, tile_size=tile_size)


class TestGraph:
    """Of a batch in which some matches are singled out and some are not."""

    @pytest.mark.parametrize("name", BOTH)
    def test_gradients_against_finite_differences(self, name: str) -> None:
        images, texts, ids, _ = case("labels")
        loss = losses.build({"name": name, **({"label_smoothing": 0.2} if name == "softmax" else {})})
        inputs = [value.requires_grad_() for value in (images, texts, scalar(5.0), scalar(-1.0))]
        count = 3 if name == "softmax" else 4
        assert torch.autograd.gradcheck(lambda *values: loss(*values, positives=ids), inputs[:count])

    @pytest.mark.parametrize("name", BOTH)
    def test_second_backward_through_a_kept_graph(self, name: str) -> None:
        images, texts, ids, _ = case("labels")
        images.requires_grad_(), texts.requires_grad_()
        loss = losses.build(name)(images, texts, scalar(9.0), scalar(-2.0), positives=ids)
        first = torch.autograd.grad(loss, [images, texts], retain_graph=True)
        second = torch.autograd.grad(loss * 3, [images, texts])
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(3 * one, other, rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("name", BOTH)
    def test_second_derivatives_are_refused(self, name: str) -> None:
        images, texts, ids, _ = case("shuffled")
        loss = losses.build(name)(images.requires_grad_(), texts, scalar(9.0), scalar(-2.0), positives=ids)
        with pytest.raises(InputError, match=f"the {name} loss has no second derivative"):
            torch.autograd.grad(loss, images, create_graph=True)

    @pytest.mark.parametrize("name", BOTH)
    def test_autocast_does_not_round_the_logits(self, name: str) -> None:
        images, texts, ids, _ = case("labels")
        values = [images.float(), texts.float(), torch.tensor([50.0]), torch.tensor([-3.0])]
        plain, gradients = measured({"name": name}, values, ids)
        with torch.autocast("cpu", torch.bfloat16):
            cast, others = measured({"name": name}, values, ids)
        assert torch.equal(plain, cast) and torch.equal(gradients[0], others[0])  # type: ignore[arg-type]

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", BOTH)
    def test_half_precision_costs_no_more_than_rounding_the_result(self, name: str, dtype: torch.dtype) -> None:
        images, texts, ids, _ = case("swapped captions")
        values = [images.to(dtype), texts.to(dtype), torch.tensor([50.0]), torch.tensor([-10.0])]
        loss, found = measured({"name": name}, values, ids)
        inputs = [value.double().requires_grad_() for value in values]
        expected = dense(name, *inputs, ids[0][:, None] == ids[1])
        expected.backward()
        assert loss.dtype == torch.float32 and relative(loss, expected.detach()) <= 1e-6
        for value, reference in zip(found[:2], inputs, strict=False):
            assert value is not None and reference.grad is not None and value.dtype == dtype
            rounding = relative(reference.grad.to(dtype), reference.grad)
            assert relative(value, reference.grad) <= 1.02 * rounding + 1e-6


def test_memory_is_not_that_of_the_matrix() -> None:
    """Ids of two labels: half of 4,096 x 8,192 combinations match, which would be 16 million pairs of numbers."""
    images, texts = unit(4096, 0, 8).float().requires_grad_(), unit(8192, 1, 8).float().requires_grad_()
    ids = torch.arange(4096) % 2, torch.arange(8192) % 2
    largest = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = function(*args, **(kwargs or {}))
            for value in found if isinstance(found, tuple | list) else [found]:
                if isinstance(value, Tensor):
                    largest[0] = max(largest[0], value.untyped_storage().nbytes())
            return found

    for name in BOTH:
        with Watch():
            loss = losses.build({"name": name, "tile_size": 512})
            loss(images, texts, torch.tensor([9.0]), torch.tensor([-2.0]), positives=ids).backward()
    assert 512 * 512 * 4 <= largest[0] <= 2 * 512 * 512 * 4


@pytest.mark.gpu
@pytest.mark.parametrize("case_name", ["swapped captions", "labels", "two columns"])
@pytest.mark.parametrize("name", BOTH)
def test_on_a_device_results_are_those_of_the_cpu(name: str, case_name: str) -> None:
    images, texts, ids, _ = case(case_name)
    values = [images, texts, scalar(9.0), scalar(-3.0)]
    expected, gradients = measured({"name": name, "tile_size": 3}, values, ids)
    moved = (ids[0].cuda(), ids[1].cuda())
    loss, found = measured({"name": name, "tile_size": 3}, [value.cuda() for value in values], moved)
    assert relative(loss.cpu(), expected) <= 1e-12
    for one, other in zip(found, gradients, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert relative(one.cpu(), other) <= 1e-12
