"""Crops resized together, beside torch's own resize of each in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.data.resized import Box, resized

SIDES = st.integers(1, 70)


@st.composite
def boxed(draw: st.DrawFn) -> tuple[tuple[int, int], Box]:
    """A picture's height and width, and a box in it."""
    height, width = draw(SIDES), draw(SIDES)
    top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return (height, width), (top, left, draw(st.integers(1, height - top)), draw(st.integers(1, width - left)))


def noise(height: int, width: int, seed: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def furthest(found: Tensor, pictures: list[Tensor], boxes: list[Box], mode: str) -> float:
    """From torch's resize of each box in float64."""
    errors = []
    for one, picture, (top, left, height, width) in zip(found, pictures, boxes, strict=True):
        crop = picture[:, top : top + height, left : left + width].double()
        exact = interpolate(crop[None], one.shape[1:], mode=mode, antialias=True)[0].clamp(0, 255)
        errors.append(float((one - exact).abs().max()))
    return max(errors)


# What lies between two values may go to either.
BETWEEN = 0.5 + 1e-3


@given(
    st.lists(boxed(), min_size=1, max_size=6),
    st.booleans(),
    st.integers(1, 40),
    st.sampled_from(["bicubic", "bilinear"]),
    st.sampled_from([1, 20_000, 1 << 28]),
)
@settings(max_examples=150, deadline=None)
def test_as_torch_resizes_each(
    drawn: list[tuple[tuple[int, int], Box]], alike: bool, size: int, mode: str, at_once: int
) -> None:
    if alike:  # pictures of one shape go another way
        drawn = drawn[:1] * 3
    pictures, boxes = [noise(*shape, seed) for seed, (shape, _) in enumerate(drawn)], [box for _, box in drawn]
    found = resized(pictures, boxes, size, mode, at_once)
    assert found.shape == (len(drawn), 3, size, size) and found.dtype == torch.uint8
    assert furthest(found, pictures, boxes, mode) <= BETWEEN


def test_a_box_of_the_results_size_stays() -> None:
    picture = noise(40, 50, 0)
    assert torch.equal(resized([picture], [(3, 5, 24, 24)], 24, "bicubic")[0], picture[:, 3:27, 5:29])


@pytest.mark.gpu
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("allowed", [False, True], ids=["float32", "TF32 allowed"])
def test_on_a_device(mode: str, allowed: bool) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        pictures = [noise(30 + 17 * one, 90 - 5 * one, one) for one in range(12)]
        boxes = [(one, 2, 25 + one, 30) for one in range(12)]
        found = resized([picture.cuda() for picture in pictures], boxes, 32, mode).cpu()
        assert torch.backends.cuda.matmul.allow_tf32 == allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert furthest(found, pictures, boxes, mode) <= BETWEEN
