"""What a loss asks of other ranks: columns, means, and errors that reach every rank instead of leaving one waiting."""

from __future__ import annotations

import re

import pytest
import torch
from distributed.ranks import run_ranks
from torch import Tensor, nn

from lightning_clip.core.distributed import AcrossRanks
from lightning_clip.core.errors import InputError

SIZES = [3, 0, 5]


class Asking(AcrossRanks, nn.Module):
    """A module, for its `training`."""


def rows_of(rank: int, width: int = 2) -> Tensor:
    """Numbers that tell rank and row."""
    return 100.0 * rank + torch.arange(SIZES[rank] * width, dtype=torch.float64).view(-1, width)


def _columns(rank: int, world_size: int) -> tuple[Tensor, int, Tensor, Tensor]:
    own = rows_of(rank).requires_grad_()
    rows, offset = Asking().all_columns(own)
    ids, _ = Asking().all_columns(torch.arange(SIZES[rank]) + 10 * rank)
    # Each rank weighs a row by its own number and the row's place, so that a gradient tells who used it.
    ((rank + 1) * (rows.sum(dim=1) * torch.arange(len(rows))).sum()).backward()
    assert own.grad is not None
    return rows.detach(), offset, ids, own.grad


def test_columns_of_all_ranks_and_their_gradients() -> None:
    every = torch.cat([rows_of(rank) for rank in range(3)])
    for rank, (rows, offset, ids, gradient) in enumerate(run_ranks(_columns, 3)):
        assert torch.equal(rows, every) and offset == sum(SIZES[:rank])
        assert ids.tolist() == [0, 1, 2, 20, 21, 22, 23, 24]
        places = torch.arange(8).double()[offset : offset + SIZES[rank], None]
        assert torch.equal(gradient, (6 * places).expand(-1, 2))  # 1 + 2 + 3


def _mean(rank: int, world_size: int) -> tuple[float, Tensor]:
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    loss = Asking().mean((weight * rows_of(2 * rank)[:, 0]).square())
    loss.backward()
    assert weight.grad is not None
    return loss.item(), weight.grad


def test_mean_over_uneven_ranks() -> None:
    """Loss and gradient, averaged over ranks as DDP does, are those of one process; a plain mean is not."""
    rows = torch.cat([rows_of(0), rows_of(2)])[:, 0]
    found = run_ranks(_mean, 2)
    assert sum(loss for loss, _ in found) / 2 == pytest.approx(4 * rows.square().mean().item(), rel=1e-14)
    assert float(found[0][1] + found[1][1]) / 2 == pytest.approx(4 * rows.square().mean().item(), rel=1e-14)
    plain = (rows[:3].square().mean() + rows[3:].square().mean()) / 2
    assert abs(plain / rows.square().mean() - 1) > 0.1


def _evaluates(rank: int, world_size: int) -> tuple[bool, float] | None:
    if rank == 1:  # holds no batch: a collective would wait for it until the test's time is over
        return None
    asking, rows = Asking().eval(), rows_of(2)
    columns, offset = asking.all_columns(rows)
    return columns is rows and offset == 0, float(asking.mean(rows[:, 0]))


def test_in_evaluation_a_rank_is_alone() -> None:
    assert run_ranks(_evaluates, 2) == [(True, 204.0), None]


def _fails(rank: int, world_size: int, fault: str) -> str:
    good = torch.ones(4, 8)
    columns = {"width": torch.ones(4, 6), "type": good.bfloat16(), "ndim": good[None], "row": good[:, 0], "kind": good.bool()}
    rows = {"mean": good, "empty": good[:0, 0]}
    asking = Asking()
    try:
        if fault in columns:
            asking.all_columns(columns[fault] if rank == 1 else good)
        else:
            asking.mean(rows[fault] if rank == 1 else good[:, 0])
    except InputError as error:
        return str(error)
    return "no error"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "width",
            r"features differ in width or type: rank 0 \(B, 8\) torch.float32, rank 1 \(B, 6\) .* same model",
        ),
        ("type", r"rank 1 \(B, 8\) torch.bfloat16. Build the same model on every rank"),
        ("row", r"rank 0 \(B, 8\) torch.float32, rank 1 \(B,\) torch.float32"),
        ("ndim", r"rank 1: all_columns: features \(1, 4, 8\) must be \(B, D\) or \(B,\)"),
        ("kind", r"rank 1: all_columns: features are torch.bool, expected one of torch.float32, .*, torch.int64"),
        ("mean", r"rank 1: mean: per_row \(4, 8\) must be \(B,\), a value for each row of this rank"),
        ("empty", r"rank 1: mean: per_row \(0,\) has no rows: drop the batch, or give each rank at least one sample"),
    ],
)
def test_what_is_wrong_on_one_rank_is_raised_on_all(fault: str, message: str) -> None:
    for found in run_ranks(_fails, 2, fault):
        assert re.search(message, found), found


def test_what_is_wrong_on_one_process() -> None:
    with pytest.raises(InputError, match=r"features \(2, 2, 2\) must be \(B, D\)"):
        Asking().all_columns(torch.ones(2, 2, 2))
    with pytest.raises(InputError, match=r"per_row \(\) must be \(B,\)"):
        Asking().mean(torch.ones(()))
