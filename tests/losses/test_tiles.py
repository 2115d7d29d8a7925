"""Tiles change speed and memory only: every size and form against float64, where rounding is hardest too."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch
from corners import corners
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense
from torch import Tensor
from torch.nn.functional import normalize
from waiting import PATIENCE

from lightning_clip.core.errors import InputError
from lightning_clip.losses import losses, tiling

BOTH = ["softmax", "sigmoid"]


def unit(count: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator), dim=-1)


def measured(
    name: str, images: Tensor, texts: Tensor, scale: float, bias: float, **arguments: object
) -> tuple[Tensor, list[Tensor | None]]:
    inputs = [images, texts, torch.tensor([scale]), torch.tensor([bias])]
    inputs = [value.clone().requires_grad_() for value in inputs]
    loss = losses.build({"name": name, **arguments})(*inputs)
    loss.backward()
    return loss.detach(), [value.grad for value in inputs]


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


def check(name: str, images: Tensor, texts: Tensor, scale: float, bias: float, limit: float, **arguments: object) -> Tensor:
    loss, gradients = measured(name, images, texts, scale, bias, **arguments)
    expected, references = dense.gradients(name, images, texts, scale, bias)
    assert relative(loss, expected) <= limit
    for found, reference in zip(gradients, references, strict=True):
        if reference is not None:
            assert found is not None and relative(found, reference) <= limit
    return expected


class TestAgainstFloat64:
    """Relative error of loss and all gradients at most 1e-6 in float32."""

    @pytest.mark.parametrize("tile_size", [None, 128, 100, 1, 4096], ids=str)
    @pytest.mark.parametrize("name", BOTH)
    def test_random_features(self, name: str, tile_size: int | None) -> None:
        count = 23 if tile_size == 1 else 333
        check(name, unit(count, 128, 0), unit(count, 128, 1), 14.3, -10.0, 1e-6, tile_size=tile_size)

    @pytest.mark.parametrize("tile_size", [None, 300], ids=str)
    @pytest.mark.parametrize("name", BOTH)
    def test_scale_100(self, name: str, tile_size: int | None) -> None:
        check(name, unit(1000, 512, 0), unit(1000, 512, 1), 100.0, -10.0, 1e-6, tile_size=tile_size)

    @pytest.mark.parametrize("tile_size", [None, 300], ids=str)
    @pytest.mark.parametrize("scale", [38.0, 45.0])
    def test_converged_softmax_keeps_its_gradient(self, scale: float, tile_size: int | None) -> None:
        features = unit(1000, 512, 0)
        expected = check("softmax", features, features, scale, 0.0, 1e-6, tile_size=tile_size)
        assert 0 < expected < 1e-12

    @pytest.mark.parametrize("tile_size", [None, 300], ids=str)
    def test_converged_softmax_at_the_highest_scale(self, tile_size: int | None) -> None:
        assert check("softmax", torch.eye(512), torch.eye(512), 80.0, 0.0, 1e-6, tile_size=tile_size) < 1e-30

    @pytest.mark.parametrize("tile_size", [None, 300], ids=str)
    def test_converged_sigmoid_keeps_its_gradient(self, tile_size: int | None) -> None:
        features = torch.eye(512)
        expected = check("sigmoid", features, features, 100.0, -50.0, 1e-6, tile_size=tile_size)
        assert 0 < expected < 1e-12

    @pytest.mark.parametrize("tile_size", [None, 7], ids=str)
    def test_logits_beyond_the_reach_of_one_exponential(self, tile_size: int | None) -> None:
        """Opposite features at a huge scale: without each row's own maximum every exponential would be zero."""
        images = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]).repeat(5, 1)
        check("softmax", images, -images, 400.0, 0.0, 1e-6, tile_size=tile_size)
        loss, _ = measured("softmax", images, images, 400.0, 0.0, tile_size=tile_size)
        # Five copies of each; among them the last digit of a float32 logit of 400 is 3e-5.
        assert loss.item() == pytest.approx(math.log(5), rel=3e-5)

    @pytest.mark.parametrize("image_weight", [0.0, 0.25, 1.0])
    def test_weights_of_the_directions(self, image_weight: float) -> None:
        images, texts = unit(50, 16, 0), unit(50, 16, 1)
        _, gradients = measured("softmax", images, texts, 20.0, 0.0, image_weight=image_weight, tile_size=16)
        inputs = [images.double().requires_grad_(), texts.double().requires_grad_()]
        dense.softmax(*inputs, torch.tensor([20.0]).double(), image_weight=image_weight).backward()
        for found, value in zip(gradients[:2], inputs, strict=True):
            assert found is not None and value.grad is not None and relative(found, value.grad) <= 1e-6

    @settings(max_examples=30, deadline=None)
    @given(
        name=st.sampled_from(BOTH),
        count=st.integers(2, 40),
        width=st.integers(2, 20),
        scale=st.floats(0.1, 100),
        bias=st.floats(-15, 5),
        tile_size=st.one_of(st.none(), st.integers(1, 50)),
    )
    def test_any_shape(self, name: str, count: int, width: int, scale: float, bias: float, tile_size: int | None) -> None:
        images, texts = unit(count, width, count).double(), unit(count, width, width).double()
        inputs = [images, texts, torch.tensor([scale]).double(), torch.tensor([bias]).double()]
        inputs = [value.requires_grad_() for value in inputs]
        loss = losses.build({"name": name, "tile_size": tile_size})(*inputs)
        loss.backward()
        expected, references = dense.gradients(name, images, texts, inputs[2].item(), inputs[3].item())
        torch.testing.assert_close(loss.detach(), expected, rtol=1e-6, atol=1e-9)
        for value, reference in zip(inputs[:2], references, strict=False):
            torch.testing.assert_close(value.grad, reference, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("name", BOTH)
    def test_half_precision_costs_no_more_than_rounding_the_result(self, name: str, dtype: torch.dtype) -> None:
        images, texts = unit(200, 64, 0).to(dtype), unit(200, 64, 1).to(dtype)
        loss, gradients = measured(name, images, texts, 50.0, -10.0, tile_size=64)
        expected, references = dense.gradients(name, images, texts, 50.0, -10.0)
        assert loss.dtype == torch.float32 and relative(loss, expected) <= 1e-6
        for found, reference in zip(gradients[:2], references, strict=False):
            assert found is not None and reference is not None and found.dtype == dtype
            # The best that the type can hold, and a share of its last digit for values on the edge between two.
            assert relative(found, reference) <= 1.02 * relative(reference.to(dtype), reference) + 1e-6


class TestGraph:
    @pytest.mark.parametrize("name", BOTH)
    def test_second_backward_through_a_kept_graph(self, name: str) -> None:
        images, texts = unit(40, 8, 0).requires_grad_(), unit(40, 8, 1).requires_grad_()
        loss = losses.build(name)(images, texts, torch.tensor([9.0]), torch.tensor([-2.0]))
        first = torch.autograd.grad(loss, [images, texts], retain_graph=True)
        second = torch.autograd.grad(loss * 3, [images, texts])
        for one, other in zip(first, second, strict=True):
            torch.testing.assert_close(3 * one, other, rtol=1e-5, atol=1e-7)

    @pytest.mark.parametrize("name", BOTH)
    def test_second_derivatives_are_refused(self, name: str) -> None:
        images, texts = unit(4, 8, 0).requires_grad_(), unit(4, 8, 1)
        loss = losses.build(name)(images, texts, torch.tensor([9.0]), torch.tensor([-2.0]))
        with pytest.raises(InputError, match=f"the {name} loss has no second derivative: call backward or .* without create"):
            torch.autograd.grad(loss, images, create_graph=True)

    @pytest.mark.parametrize("name", BOTH)
    def test_features_changed_in_place_are_noticed(self, name: str) -> None:
        images, texts = unit(4, 8, 0).requires_grad_(), unit(4, 8, 1)
        loss = losses.build(name)(images, texts, torch.tensor([9.0]), torch.tensor([-2.0]))
        texts.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    @pytest.mark.parametrize("name", BOTH)
    def test_autocast_does_not_round_the_logits(self, name: str) -> None:
        images, texts = unit(30, 8, 0), unit(30, 8, 1)
        plain, _ = measured(name, images, texts, 50.0, -3.0)
        with torch.autocast("cpu", torch.bfloat16):
            cast, _ = measured(name, images, texts, 50.0, -3.0)
        assert torch.equal(plain, cast)

    @pytest.mark.parametrize("name", BOTH)
    def test_one_pair(self, name: str) -> None:
        check("sigmoid", unit(1, 8, 0), unit(1, 8, 1), 10.0, -3.0, 1e-6)
        loss, gradients = measured("softmax", unit(1, 8, 0), unit(1, 8, 1), 10.0, 0.0)
        assert loss == 0 and gradients[0] is not None and gradients[0].abs().sum() == 0


MEMORY = """
import gc, re, torch
from pathlib import Path
from lightning_clip.losses import losses
torch.set_num_threads(1)
count, width = 8192, 64
images, texts = (torch.nn.functional.normalize(torch.randn(count, width), dim=-1).requires_grad_() for _ in "it")
warm = torch.randn(64, width, requires_grad=True)
loss = losses.build({"name": NAME, "tile_size": 512})
loss(warm, warm, torch.tensor([10.0]), torch.tensor([-10.0])).backward()
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
loss(images, texts, torch.tensor([10.0]), torch.tensor([-10.0])).backward()
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak of memory is read from Linux' /proc")
@pytest.mark.parametrize("name", corners(BOTH, "softmax"))
def test_memory_is_not_that_of_the_matrix(name: str) -> None:
    """8,192 pairs: the matrix alone would be 256 MiB."""
    program = MEMORY.replace("NAME", repr(name))
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE, check=True)
    assert 1024 < int(found.stdout) < 40 * 1024  # KiB


def test_small_matrices_are_kept_and_large_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_clip.losses import softmax_tiles

    kept = []
    original = tiling.Tiles.__init__

    def watch(self: tiling.Tiles, *arguments: object, **options: object) -> None:
        original(self, *arguments, **options)  # type: ignore[arg-type]
        kept.append(self.matrix is not None)

    monkeypatch.setattr(tiling.Tiles, "__init__", watch)
    measured("softmax", unit(64, 8, 0), unit(64, 8, 1), 10.0, 0.0)
    monkeypatch.setattr(softmax_tiles, "DENSE_BYTES", 64 * 64 * 4 - 1)
    measured("softmax", unit(64, 8, 0), unit(64, 8, 1), 10.0, 0.0)
    assert kept == [True, False]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(InputError, match="tile_size 0 must be at least 1, or None to choose by size"):
        losses.build({"name": "softmax", "tile_size": 0})
    with pytest.raises(InputError, match="unknown exchange 'rign': did you mean 'ring'"):
        losses.build({"name": "sigmoid", "exchange": "rign"})
    with pytest.raises(InputError, match=r"label_smoothing 1.0 must be in \[0, 1\)"):
        losses.build({"name": "softmax", "label_smoothing": 1.0})
