"""The kernels for CUDA under Triton's interpreter, which runs them on the CPU, and on a device where there is one."""

from __future__ import annotations

import importlib.util
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from reference import dense
from torch import Tensor
from torch.nn.functional import normalize
from waiting import PATIENCE

from lightning_clip.core.errors import InputError
from lightning_clip.losses import losses, sigmoid_contrastive_loss, softmax_contrastive_loss
from lightning_clip.losses.cuda_choice import Multiplied, _runs, multiplied_as
from lightning_clip.losses.exchange import Ring

PROGRAM = Path(__file__).parent / "cuda_program.py"
BOTH = ["softmax", "sigmoid"]


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA only")
@pytest.mark.slow
def test_kernels_against_float64() -> None:
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    path = os.pathsep.join([str(PROGRAM.parent.parent), *sys.path])
    settings = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=settings, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["alone", "only_what_is_asked_for", "over_ranks", "a_ring_of_one", "through_the_module"]


class TestChoice:
    def on_cuda(self, dtype: torch.dtype) -> Tensor:
        return SimpleNamespace(device=torch.device("cuda"), dtype=dtype)  # type: ignore[return-value]

    @pytest.mark.parametrize(
        ("dtype", "precision", "expected"),
        [
            (torch.bfloat16, "auto", (torch.bfloat16, 1)),
            (torch.float16, "float32", (torch.float16, 1)),
            (torch.float32, "auto", (torch.bfloat16, 3)),
            (torch.float32, "float32", (torch.bfloat16, 3)),
            (torch.float32, "bfloat16", (torch.bfloat16, 1)),
            (torch.float32, "float16", (torch.float16, 1)),
            (torch.float64, "auto", None),
        ],
        ids=str,
    )
    def test_types(self, dtype: torch.dtype, precision: str, expected: tuple[torch.dtype, int] | None) -> None:
        assert multiplied_as(self.on_cuda(dtype), precision) == expected

    def test_auto_follows_autocast(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Which torch switches on only where there is a device."""
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: torch.bfloat16)
        assert multiplied_as(self.on_cuda(torch.float32), "auto") == (torch.bfloat16, 1)
        assert multiplied_as(self.on_cuda(torch.float32), "float32") == (torch.bfloat16, 3)

    def test_not_on_the_cpu(self) -> None:
        assert multiplied_as(torch.zeros(4, 8), "bfloat16") is None

    def test_an_unknown_precision(self) -> None:
        features = torch.eye(3)
        with pytest.raises(InputError, match=r"unknown precision 'bf16': did you mean 'bfloat16'"):
            softmax_contrastive_loss(features, features, torch.ones(1), precision="bf16")

    def test_what_a_device_cannot_run_is_said_in_one_line(self, caplog: pytest.LogCaptureFixture) -> None:
        """The CPU stands for a device whose compiler does not take the kernels."""
        with caplog.at_level(logging.WARNING):
            assert not _runs("softmax", torch.device("cpu"), Multiplied(torch.float16, 1))
        (record,) = caplog.records
        assert "the softmax loss has no kernels on cpu and is computed in plain tiles: " in record.message
        assert "\n" not in record.message


def _inputs(count: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator("cuda").manual_seed(count)
    images, texts = (normalize(torch.randn(count, 256, device="cuda", generator=generator), dim=-1) for _ in "it")
    values = [images.to(dtype), normalize(texts + 0.3 * images, dim=-1).to(dtype), *torch.tensor([[40.0], [-12.0]]).cuda()]
    return [value.requires_grad_() for value in values]


def _over_ring(name: str, inputs: list[Tensor]) -> Tensor:
    exchange = Ring([len(inputs[0])], 0)
    if name == "softmax":
        return softmax_contrastive_loss(*inputs[:3], exchange=exchange)
    return sigmoid_contrastive_loss(*inputs, exchange=exchange)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", BOTH)
class TestOnADevice:
    @pytest.mark.parametrize("count", [1000, 4480], ids=str)
    @pytest.mark.parametrize(
        ("dtype", "limit"), [(torch.float32, 5e-6), (torch.float16, 1e-3), (torch.bfloat16, 6e-3)], ids=str
    )
    @pytest.mark.parametrize("ring", [False, True], ids=["alone", "ring of one rank"])
    def test_against_float64(self, name: str, count: int, dtype: torch.dtype, limit: float, ring: bool) -> None:
        inputs = _inputs(count, dtype)
        loss = _over_ring(name, inputs) if ring else losses.build(name)(*inputs)
        loss.backward()
        expected, references = dense.gradients(name, *(value.detach().cpu() for value in inputs[:2]), 40.0, -12.0)
        assert (loss.detach().double().cpu() - expected).abs() <= 2e-6 * expected
        for value, reference in zip(inputs[:3], references, strict=False):
            assert value.grad is not None and reference is not None
            assert (value.grad.double().cpu() - reference).norm() <= limit * reference.norm()
        if name == "sigmoid":  # the bias gets a small difference of two large sums, of pairs and of others
            logits = 40.0 * inputs[0].detach().double() @ inputs[1].detach().double().T - 12.0
            sums = logits.sigmoid().sum() - logits.diagonal().sigmoid().sum() + (-logits.diagonal()).sigmoid().sum()
            assert (inputs[3].grad.double() - references[3].cuda()).abs() <= limit * sums / count  # type: ignore[union-attr]

    def test_nothing_waits_for_the_device(self, name: str, no_waiting: None) -> None:
        inputs, loss = _inputs(1024, torch.float32), losses.build(name)
        with torch.autocast("cuda", torch.bfloat16):
            loss(*inputs).backward()  # compiles
            torch.cuda.set_sync_debug_mode("error")
            loss(*inputs).backward()
