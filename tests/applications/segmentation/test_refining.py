"""Refinement by the picture: against loops in float64, what it must keep, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small import small_module

from lightning_clip import InputError
from lightning_clip.applications.relevance import relevance
from lightning_clip.applications.segmentation import Segmenter, refined


def looped(maps: np.ndarray, picture: np.ndarray, steps: int, dilations: tuple[int, ...]) -> np.ndarray:
    """Equations 2 and 3 of PAMR, pixel by pixel."""
    colours, (_, height, width) = picture / 255, maps.shape
    around = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    for _ in range(steps):
        found = np.zeros_like(maps)
        for y in range(height):
            for x in range(width):
                near = [(min(max(y + down, 0), height - 1), min(max(x + across, 0), width - 1)) for down, across in around]
                values = np.array([colours[:, y, x], *(colours[:, row, column] for row, column in near)])  # (1 + P, 3)
                spread = values.std(axis=0, ddof=1)
                alike = -(np.abs(values[1:] - values[0]) / (0.1 * spread + 1e-8)).mean(axis=1)
                weights = np.exp(alike - alike.max())
                weights /= weights.sum()
                found[:, y, x] = sum(part * maps[:, row, column] for part, (row, column) in zip(weights, near, strict=True))
        maps = found
    return maps


def test_equals_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 7, 9), dtype=torch.uint8, generator=generator)
    maps = torch.randn(2, 7, 9, generator=generator)
    for steps, dilations in ((1, (1,)), (3, (1, 2, 4)), (2, (12,))):
        expected = looped(maps.double().numpy(), picture.double().numpy(), steps, dilations)
        assert np.abs(refined(maps, picture, steps, dilations).double().numpy() - expected).max() <= 1e-5


def test_what_it_keeps() -> None:
    picture = torch.randint(0, 256, (3, 12, 12), dtype=torch.uint8)
    maps = torch.rand(2, 12, 12)
    assert refined(maps, picture, 0) is maps
    torch.testing.assert_close(refined(torch.full((1, 12, 12), 0.3), picture), torch.full((1, 12, 12), 0.3))
    found = refined(maps, picture)
    assert found.min() >= maps.min() and found.max() <= maps.max()
    flat = refined(maps, torch.full((3, 12, 12), 7, dtype=torch.uint8), 1, (1,))  # equal colours: the plain mean
    torch.testing.assert_close(flat[0, 5, 5], (maps[0, 4:7, 4:7].sum() - maps[0, 5, 5]) / 8)


def test_the_best_place_of_a_ring_is_on_the_ring() -> None:
    """A coarse map has its peak in the hole."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    distance = ((rows - 24.0) ** 2 + (columns - 24.0) ** 2).sqrt()
    ring = (distance <= 8) & (distance >= 4.5)
    picture = torch.where(ring, torch.tensor([200, 30, 30])[:, None, None], torch.tensor(230)).to(torch.uint8)
    coarse = (-(distance**2) / 100).exp()[None]
    assert not ring.flatten()[coarse.argmax()] and ring.flatten()[refined(coarse, picture).argmax()]


def test_segments_and_relevance_are_refined() -> None:
    torch.manual_seed(0)
    predictor = small_module().eval().predictor
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    plain, edged = (
        Segmenter(predictor, ["a ring", "a star"], refine=steps, contrast=False).scores(picture) for steps in (0, 4)
    )
    torch.testing.assert_close(edged, refined(plain, picture, 4))
    assert not torch.allclose(edged, plain)
    found = relevance(predictor, picture, ["a ring"], refine=4)
    torch.testing.assert_close(found.grids, refined(relevance(predictor, picture, ["a ring"]).maps(), found.picture, 4))


def test_errors() -> None:
    maps, picture = torch.rand(1, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(InputError, match="refining steps -1 must be"):
        refined(maps, picture, -1)
    with pytest.raises(InputError, match="refining dilations 0 must be"):
        refined(maps, picture, 2, (1, 0))
    with pytest.raises(InputError, match=r"refine 1.5 must be"):
        Segmenter(small_module().predictor, ["a ring", "a star"], refine=1.5)  # type: ignore[arg-type]
