"""How many messages ranks exchange in a step, and that gradients are those of one process whatever is kept or merged."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import run_ranks
from reference import dense
from small import small_data, small_module, small_trainer
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip import ClipModule
from lightning_clip.losses import exchange, losses

COLLECTIVES = ("all_gather", "all_gather_object", "all_reduce", "batch_isend_irecv", "broadcast", "reduce_scatter_tensor")
SIZES = [5, 3]


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Collectives that are begun meanwhile; those of torch's own DDP are not seen here."""
    found: Counter[str] = Counter()
    before = {name: getattr(dist, name) for name in COLLECTIVES}

    def counting(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            found[name] += 1
            return before[name](*arguments, **options)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counting(name))
    try:
        yield found
    finally:
        for name, function in before.items():
            setattr(dist, name, function)


def unit(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(sum(SIZES), 16, generator=generator, dtype=torch.float64), dim=-1)


def _messages(rank: int, world_size: int, name: str, scale: float, kept: int) -> tuple[dict[str, int], list[Tensor]]:
    """What one rank's loss and gradients ask of the others, and its features' gradients as DDP would average them."""
    exchange.KEPT_BYTES = kept
    part = slice(sum(SIZES[:rank]), sum(SIZES[: rank + 1]))
    inputs = [unit(seed)[part].requires_grad_() for seed in (0, 1)]
    with counted() as found:
        loss = losses.build(name)(*inputs, torch.tensor([scale]).double(), torch.tensor([-3.0]).double())
        torch.autograd.backward(loss / world_size)
    return dict(found), [value.grad for value in inputs]  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "scale", "kept", "expected"),
    [
        # The header with the largest norms, texts, sums of columns, their factors, gradients of texts: 5. They were 8.
        ("softmax", 14.0, 1 << 28, {"all_gather": 3, "all_reduce": 2}),
        # Texts that are too many to keep are gathered again.
        ("softmax", 14.0, 100, {"all_gather": 4, "all_reduce": 2}),
        # A steep scale loses sums: the ranks ask each other, and take each row's and column's own maximum. They were 15.
        ("softmax", 900.0, 1 << 28, {"all_gather": 5, "all_reduce": 5}),
        ("sigmoid", 14.0, 1 << 28, {"all_gather": 2, "all_reduce": 1}),  # header, texts, their gradients: they were 4
        ("sigmoid", 14.0, 100, {"all_gather": 3, "all_reduce": 1}),
    ],
)
def test_of_a_loss(name: str, scale: float, kept: int, expected: dict[str, int]) -> None:
    ranks = run_ranks(_messages, 2, name, scale, kept)
    reference = dense.gradients(name, unit(0), unit(1), scale, -3.0)[1]
    for place in (0, 1):
        found = torch.cat([gradients[place] for _, gradients in ranks])
        assert (found - reference[place]).norm() <= 1e-9 * reference[place].norm()
    assert all(counts == expected for counts, _ in ranks), ranks[0][0]


class Counting(ClipModule):
    """Writes how many collectives each step began."""

    folder: Path

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self._counting = counted()
        self._found = self._counting.__enter__()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._counting.__exit__(None, None, None)
        (self.folder / f"{self.global_rank}-{batch_idx}.json").write_text(json.dumps(self._found))
        super().on_train_batch_end(outputs, batch, batch_idx)


def test_of_a_step(tmp_path: Path) -> None:
    """The loss's 5, and one message for the mean loss, by which also the guard sees that it is finite: 6. They were 10."""
    settings = small_module().to_mapping()
    module = Counting(**settings)
    module.folder = tmp_path
    small_trainer(tmp_path, devices=2, strategy="ddp_fork", max_steps=2).fit(module, small_data())
    found = [json.loads(path.read_text()) for path in tmp_path.glob("?-?.json")]
    assert len(found) == 4 and all(counts == {"all_gather": 3, "all_reduce": 3} for counts in found), found
