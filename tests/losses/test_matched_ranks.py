"""Ranks with different numbers of images and of texts against one process, and errors that reach every rank."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from corners import corners
from distributed.ranks import run_ranks
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.losses import losses

EXCHANGES = ["gather", "ring"]
# Images 0 and 1 have captions on other ranks, 9 has none, texts of -1 belong to nobody; labels match many to many.
IDS = {
    "captions": (torch.tensor([0, 1, 2, 3, 9, 4, 5]), torch.tensor([5, 4, 3, 2, 1, 0, 0, 1, -1, -1, -1, 2])),
    "labels": (torch.tensor([0, 1, 0, 1, 2, 0, -1]), torch.tensor([1, 1, 0, 0, 2, 1, 0, 3, 3, -1, 0, 0])),
}
# Images and texts of each rank.
SIZES = {"two": ([5, 2], [4, 8]), "three": ([1, 4, 2], [7, 1, 4])}
SETTINGS: dict[str, dict[str, Any]] = {
    "softmax": {"name": "softmax", "image_weight": 0.7},
    "smooth": {"name": "softmax", "label_smoothing": 0.2},
    "sigmoid": {"name": "sigmoid"},
}


def unit(count: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 6, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


def measured(
    rank: int,
    world_size: int,
    settings: dict[str, Any],
    sizes: tuple[list[int], list[int]],
    ids: str,
    dtype: torch.dtype,
    scale: float = 9.0,
    weights: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> tuple[Tensor, list[Tensor | None]]:
    """Loss and gradients of one rank, as DDP would average them; `weights` multiply the ranks' losses."""
    parts = [slice(sum(side[:rank]), sum(side[: rank + 1])) for side in sizes]
    values = [unit(7, 0, dtype)[parts[0]], unit(12, 1, dtype)[parts[1]], torch.tensor([scale]), torch.tensor([-3.0])]
    inputs = [value.to(dtype, copy=True).requires_grad_() for value in values]
    loss = losses.build(settings)(*inputs, positives=tuple(side[part] for side, part in zip(IDS[ids], parts, strict=True)))
    (loss * weights[rank] / world_size).backward()
    return loss.detach(), [value.grad for value in inputs]


def together(ranks: list[tuple[Tensor, list[Tensor | None]]]) -> list[Tensor | None]:
    """Gradients of the features side by side, those of scale and bias summed."""
    gradients = list(zip(*(rank[1] for rank in ranks), strict=True))
    joined: list[Tensor | None] = [torch.cat(parts) for parts in gradients[:2]]  # type: ignore[arg-type]
    return joined + [None if parts[0] is None else sum(parts) for parts in gradients[2:]]  # type: ignore[arg-type]


def close(found: list[Tensor | None], expected: list[Tensor | None], limit: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.double() - other.double()).norm() <= limit * other.double().norm()


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("ids", IDS)
class TestEqualsOneProcess:
    def compare(self, settings: dict[str, Any], ids: str, sizes: str, dtype: torch.dtype, limit: float, scale: float) -> None:
        ranks = run_ranks(measured, len(SIZES[sizes][0]), settings, SIZES[sizes], ids, dtype, scale)
        loss, expected = measured(0, 1, settings, ([7], [12]), ids, torch.float64, scale)
        assert sum(float(rank[0]) for rank in ranks) / len(ranks) == pytest.approx(loss.item(), rel=limit)
        close(together(ranks), expected, limit)

    @pytest.mark.parametrize("sizes", SIZES)
    def test_loss_and_all_gradients(self, ids: str, kind: str, exchange: str, sizes: str) -> None:
        settings = {**SETTINGS[kind], "exchange": exchange}
        self.compare(settings, ids, sizes, torch.float64, 1e-12, 9.0)

    def test_in_float32_and_tiles(self, ids: str, kind: str, exchange: str) -> None:
        settings = {**SETTINGS[kind], "exchange": exchange, "tile_size": 3}
        self.compare(settings, ids, "two", torch.float32, 1e-6, 9.0)

    def test_each_rows_own_maximum(self, ids: str, kind: str, exchange: str) -> None:
        settings = {**SETTINGS[kind], "exchange": exchange, "tile_size": 3}
        self.compare(settings, ids, "two", torch.float64, 1e-9, 3000.0)


@pytest.mark.parametrize(("kind", "ids"), corners([(kind, ids) for kind in SETTINGS for ids in IDS], ("softmax", "labels")))
def test_ranks_whose_losses_weigh_differently(kind: str, ids: str) -> None:
    """Gradients are linear in the ranks' weights: they reach features of other ranks, and gather and ring agree."""
    arguments = (SIZES["two"], ids, torch.float64, 9.0)
    for exchange in EXCHANGES:
        settings = {**SETTINGS[kind], "exchange": exchange}
        first, second, both = (
            together(run_ranks(measured, 2, settings, *arguments, weights)) for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 4.0))
        )
        combined = [None if one is None else 0.5 * one + 4.0 * other for one, other in zip(first, second, strict=True)]  # type: ignore[operator]
        close(both, combined, 1e-12)
        assert first[0] is not None and first[1] is not None
        assert first[1][4:].norm() > 0  # texts of rank 1 in the loss of rank 0


def _evaluates_alone(rank: int, world_size: int, name: str) -> float | None:
    if rank == 1:  # a collective on rank 0 would wait for it until the test's time is over
        return None
    loss = losses.build(name).eval()
    ids = tuple(side.clone() for side in IDS["captions"])
    return float(loss(unit(7, 0, torch.float64), unit(12, 1, torch.float64), torch.tensor([9.0]), None, positives=ids))


@pytest.mark.parametrize("name", ["softmax", "sigmoid"])
def test_evaluation_stays_on_its_rank(name: str) -> None:
    expected = _evaluates_alone(0, 1, name)
    assert run_ranks(_evaluates_alone, 2, name) == [pytest.approx(expected, rel=1e-12), None]


def _fails(rank: int, world_size: int, fault: str) -> str:
    images, texts = torch.ones(4, 8), torch.ones(6, 8)
    ids: Any = (torch.arange(4), torch.arange(6))
    if fault == "nobody":
        ids = (torch.full((4,), -1), torch.arange(6))
    elif rank == 1:
        ids = {
            "dtype": (ids[0].float(), ids[1]),
            "shape": (ids[0], ids[1][:5]),
            "none": None,
            "form": (ids[0][:, None].repeat(1, 2), ids[1][:, None].repeat(1, 2)),
            "pairs": ids[0],
        }[fault]
        texts = texts[:4] if fault in ("none", "pairs") else texts
    try:
        losses.build("softmax")(images, texts, torch.ones(1), positives=ids)
    except InputError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dtype", r"rank 1: positives: image_ids must be int64 \(4,\) .* got torch.float32"),
        ("shape", r"rank 1: positives: text_ids must be int64 \(6,\) .* got torch.int64 \(5,\)"),
        ("none", r"positives differ between ranks: rank 0 \(\(N, 1\), \(M, 1\)\), rank 1 none. Give every rank the same kind"),
        ("form", r"positives differ between ranks: rank 0 .*, rank 1 \(\(N, 2\), \(M, 2\)\)"),
        ("pairs", r"positives differ between ranks: rank 0 .*, rank 1 \(B, 1\)"),
        ("nobody", r"positives: none of 8 images shares an id with one of 12 texts"),
    ],
)
def test_what_is_wrong_on_one_rank_is_raised_on_all(fault: str, message: str) -> None:
    for found in run_ranks(_fails, 2, fault):
        assert re.search(message, found), found
