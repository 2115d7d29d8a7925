"""Ranks with different shards against one process on the concatenated batch, and errors that reach every rank."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from reference import dense
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.losses import losses

BOTH = ["softmax", "sigmoid"]
EXCHANGES = ["gather", "ring"]
SIZES = [[8, 8], [9, 4], [5, 6, 4, 7]]


def unit(count: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 16, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def _sharded(
    rank: int,
    world_size: int,
    settings: dict[str, Any],
    sizes: list[int],
    dtype: torch.dtype,
    weights: list[float],
    scale: float,
) -> tuple[float, Tensor, Tensor, Tensor, Tensor | None]:
    """Loss and gradients of one rank, as DDP would average them; `weights` multiply the ranks' losses."""
    part = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    values = [unit(sum(sizes), 0)[part], unit(sum(sizes), 1)[part], torch.tensor([scale]), torch.tensor([-3.0])]
    inputs = [value.to(dtype, copy=True).requires_grad_() for value in values]
    loss = losses.build(settings)(*inputs)
    (loss * weights[rank] / world_size).backward()
    images, texts, scale_gradient, bias = [value.grad for value in inputs]
    assert images is not None and texts is not None and scale_gradient is not None
    return loss.item(), images, texts, scale_gradient, bias


def compare(settings: dict[str, Any], sizes: list[int], dtype: torch.dtype, limit: float, scale: float = 9.0) -> None:
    ranks = run_ranks(_sharded, len(sizes), settings, sizes, dtype, [1.0] * len(sizes), scale)
    images, texts = unit(sum(sizes), 0, dtype), unit(sum(sizes), 1, dtype)
    loss, expected = dense.gradients(settings["name"], images, texts, scale, -3.0)
    assert sum(rank[0] for rank in ranks) / len(sizes) == pytest.approx(loss.item(), rel=limit)
    found = [torch.cat([rank[1] for rank in ranks]), torch.cat([rank[2] for rank in ranks]), sum(rank[3] for rank in ranks)]
    found.append(None if ranks[0][4] is None else sum(rank[4] for rank in ranks))
    for value, reference in zip(found, expected, strict=True):
        if value is not None:
            assert (value.double() - reference).norm() <= limit * reference.norm()  # type: ignore[union-attr]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("name", BOTH)
class TestEqualsOneProcess:
    @pytest.mark.parametrize("sizes", corners(SIZES, SIZES[1]), ids=str)
    @pytest.mark.parametrize(
        ("dtype", "limit"),
        corners([(torch.float32, 1e-6), (torch.float64, 1e-12)], (torch.float64, 1e-12)),
        ids=["float32", "float64"],
    )
    def test_loss_and_all_gradients(self, name: str, exchange: str, sizes: list[int], dtype: torch.dtype, limit: float) -> None:
        compare({"name": name, "exchange": exchange}, sizes, dtype, limit)

    def test_in_tiles(self, name: str, exchange: str) -> None:
        compare({"name": name, "exchange": exchange, "tile_size": 3}, [9, 4], torch.float64, 1e-12)

    def test_ranks_whose_losses_weigh_differently(self, name: str, exchange: str) -> None:
        """The gradient is that of the weighted sum of the ranks' losses, also through features of other ranks."""
        sizes, weights, settings = [5, 3], [0.5, 4.0], {"name": name, "exchange": exchange}
        ranks = run_ranks(_sharded, 2, settings, sizes, torch.float64, weights, 9.0)
        for place, seed in ((1, 0), (2, 1)):
            features = unit(8, seed)
            for rank, start in ((0, 0), (1, 5)):
                moved = features.clone()
                moved[start, 0] += 1e-6
                finite = (self._weighted(name, seed, moved, weights) - self._weighted(name, seed, features, weights)) / 1e-6
                assert ranks[rank][place][0, 0].item() == pytest.approx(finite, rel=1e-3, abs=1e-6)

    @staticmethod
    def _weighted(name: str, seed: int, moved: Tensor, weights: list[float]) -> float:
        """The ranks' weighted mean loss, from each row's own terms in the whole matrix."""
        images, texts = (moved, unit(8, 1)) if seed == 0 else (unit(8, 0), moved)
        logits = 9.0 * images @ texts.T
        row_weights = torch.tensor([weights[0]] * 5 + [weights[1]] * 3)
        if name == "softmax":
            rows = 0.5 * (logits.logsumexp(1) + logits.logsumexp(0)) - logits.diagonal()
        else:
            signs = 1 - 2 * torch.eye(8)
            rows = torch.nn.functional.softplus(signs * (logits - 3.0)).sum(1)
        return float((row_weights * rows).sum() / 8)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_each_rows_own_maximum_over_ranks(exchange: str) -> None:
    """A scale at which one exponential underflows takes the two-pass form on all ranks alike."""
    compare({"name": "softmax", "exchange": exchange}, [5, 3], torch.float64, 1e-9, scale=3000.0)


def _fails(rank: int, world_size: int, fault: str) -> str:
    features = {0: torch.ones(4, 8), 1: torch.ones(4, 8)}[rank]
    texts = features.clone()
    if rank == 1:
        if fault == "shape":
            texts = torch.ones(3, 8)
        elif fault == "empty":
            features = texts = torch.ones(0, 8)
        elif fault == "nan":
            features = features.clone()
            features[2] = torch.nan
        elif fault == "width":
            features = texts = torch.ones(4, 6)
        elif fault == "dtype":
            features, texts = features.bfloat16(), texts.bfloat16()
        elif fault == "mixed":
            texts = texts.bfloat16()
    try:
        losses.build("softmax")(features, texts, torch.ones(1))
    except InputError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"rank 1: image_features \(4, 8\) and text_features \(3, 8\) are not pairs"),
        ("empty", r"rank 1: .* hold no pair"),
        ("nan", r"rank 1: image_features \(4, 8\) hold NaN or infinity in 1 rows: lower the learning rate"),
        ("width", r"features differ in width or type: rank 0 \(B, 8\) torch.float32, rank 1 \(B, 6\)"),
        ("dtype", r"rank 1 \(B, 8\) torch.bfloat16. Build the same model on every rank"),
        ("mixed", r"rank 1: image_features are torch.float32, text_features torch.bfloat16: both must have the same type"),
    ],
)
def test_what_is_wrong_on_one_rank_is_raised_on_all(fault: str, message: str) -> None:
    for found in run_ranks(_fails, 2, fault):
        assert re.search(message, found), found
