"""Crops as torchvision draws them: the same boxes, and the same state of the generator afterwards."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode, v2

from lightning_clip.data.image_steps import RandomCrop

SIDES = st.integers(1, 3000)
SCALES = st.tuples(st.floats(0.01, 1.0), st.floats(0.01, 1.0)).map(lambda pair: tuple(sorted(pair)))
RATIOS = st.tuples(st.floats(0.2, 5.0), st.floats(0.2, 5.0)).map(lambda pair: tuple(sorted(pair)))


@given(SIDES, SIDES, SCALES, RATIOS, st.integers(0, 2**31))
@settings(max_examples=400, deadline=None)
def test_as_torchvision(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int) -> None:
    theirs = v2.RandomResizedCrop(8, scale=scale, ratio=ratio, antialias=True)
    ours = RandomCrop(theirs, 8, InterpolationMode.BICUBIC)
    torch.manual_seed(seed)
    expected = theirs.make_params([torch.empty(()).expand(3, height, width)])
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    assert ours.drawn(height, width) == tuple(expected[name] for name in ("top", "left", "height", "width"))
    assert torch.equal(torch.get_rng_state(), state)
