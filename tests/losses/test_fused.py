"""The Triton kernels under Triton's interpreter, which runs them on the CPU: the same numbers as the plain tiles."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_clip.losses.fused import fused_wins

PROGRAM = Path(__file__).parent / "fused_program.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA only")
def test_kernels_equal_plain_tiles() -> None:
    """In a process of its own: whether Triton interprets is decided when it is imported."""
    settings = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], env=settings, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["softmax", "sigmoid"]


def test_not_on_the_cpu() -> None:
    assert not fused_wins(torch.zeros(4, 8, dtype=torch.bfloat16))


@pytest.mark.gpu
def test_on_a_device_the_trial_decides_and_results_are_equal() -> None:
    from lightning_clip.losses import losses, softmax_tiles

    images, texts = (torch.nn.functional.normalize(torch.randn(3000, 512, device="cuda"), dim=-1).bfloat16() for _ in "it")
    found = []
    for wins in (fused_wins(images), False):
        softmax_tiles.fused_wins = lambda features, wins=wins: wins  # type: ignore[assignment, misc]
        inputs = [images.clone().requires_grad_(), texts.clone().requires_grad_()]
        loss = losses.build("softmax")(*inputs, torch.tensor([50.0], device="cuda"))
        loss.backward()
        found.append([loss.detach(), *(value.grad for value in inputs)])
    for one, other in zip(*found, strict=True):
        assert (one.double() - other.double()).norm() <= 4e-3 * other.double().norm()
