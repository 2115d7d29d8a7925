"""Look-ups in parts: one gradient of the table, that of one look-up of everything."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from adapt.test_locking import BERT
from distributed.ranks import run_ranks
from small import small_data, small_module
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_clip import PairBatch
from lightning_clip.encoders.lookups import OneGradient
from lightning_clip.training.micro_batches import encode_in_slices

IDS = torch.tensor([[1, 2, 2], [0, 2, 7], [3, 3, 3], [1, 0, 9]])


def looked_up(model: nn.Module, parts: list[Tensor], tables: OneGradient) -> Tensor:
    """A loss () that weighs every vector differently."""
    total = torch.zeros(())
    for place, ids in enumerate(parts):
        with tables.in_use():
            total = total + (model(ids) * (1 + place)).square().sum()
    return total


def plainly(table: nn.Embedding, parts: list[Tensor]) -> Tensor:
    loss = sum(((table(ids) * (1 + place)).square().sum() for place, ids in enumerate(parts)), torch.zeros(()))
    return torch.autograd.grad(loss, table.weight)[0]


class Made(TorchDispatchMode):
    """Counts the gradients of look-ups that are made, by the rows of their table."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.embedding_dense_backward.default:
            self.of[args[2]] += 1
        return func(*args, **(kwargs or {}))


class TestTable:
    @pytest.mark.parametrize("padding", [None, 2])
    def test_gradient_of_parts(self, padding: int | None) -> None:
        torch.manual_seed(0)
        table, parts = nn.Embedding(10, 4, padding_idx=padding), list(IDS.split(1))
        looked_up(table, parts, OneGradient(table)).backward()
        torch.testing.assert_close(table.weight.grad, plainly(table, parts))
        assert "forward" not in table.__dict__

    def test_is_made_once_in_each_backward_pass(self) -> None:
        table, parts = nn.Embedding(10, 4), list(IDS.split(1))
        loss, expected = looked_up(table, parts, OneGradient(table)), plainly(table, parts)
        for _ in range(2):
            with Made() as made:
                (found,) = torch.autograd.grad(loss, table.weight, retain_graph=True)
            assert made.of == {10: 1}
            torch.testing.assert_close(found, expected)

    def test_a_weight_that_is_used_elsewhere_too(self) -> None:
        table, parts = nn.Embedding(10, 4), list(IDS.split(2))
        (looked_up(table, parts, OneGradient(table)) + table.weight.sum()).backward()
        torch.testing.assert_close(table.weight.grad, plainly(table, parts) + 1)

    @pytest.mark.parametrize("padding", [None, 2])
    def test_inside_what_torch_compile_traces(self, padding: int | None) -> None:
        """As of a compiled module's step, where the table used to get no gradient."""
        torch.manual_seed(0)
        table, parts = nn.Embedding(10, 4, padding_idx=padding), list(IDS.split(1))
        torch.compile(lambda: looked_up(table, parts, OneGradient(table)), backend="eager")().backward()
        torch.testing.assert_close(table.weight.grad, plainly(table, parts))

    def test_those_that_are_left_alone(self) -> None:
        class Scaled(nn.Embedding):
            def forward(self, input: Tensor) -> Tensor:
                return 2 * super().forward(input)

        frozen = nn.Embedding(10, 4).requires_grad_(False)
        inside = nn.Sequential(nn.Embedding(10, 4))
        inside.compile(backend="eager")
        for model in (frozen, Scaled(10, 4), nn.Embedding(10, 4, sparse=True), nn.Embedding(10, 4, max_norm=1.0), inside):
            assert OneGradient(model)._tables == []
        with torch.no_grad():
            assert OneGradient(nn.Embedding(10, 4))._tables == []

    def test_after_an_error_it_looks_up_as_before(self) -> None:
        table = nn.Embedding(10, 4)
        with pytest.raises(IndexError), OneGradient(table).in_use():
            table(torch.tensor([10]))
        assert "forward" not in table.__dict__


def batch_of(module: Any) -> PairBatch:
    """Captions with new words among their tokens, where the tokenizer knows any."""
    batch: PairBatch = next(iter(small_data().attach(module).train_dataloader()))
    assert batch.tokens is not None
    tokens = batch.tokens.clone()
    tokens[::3, 1] = module.tokenizer.vocab_size - 1
    return batch._replace(tokens=tokens)


def gradients(module: Any, batch: PairBatch, size: int, once: bool) -> tuple[dict[str, Tensor], int]:
    """Of a batch in slices, by name, and how many gradients of tables were made."""
    module.zero_grad()
    with Made() as made:
        output = encode_in_slices(module.encode, batch, size, module.model if once else None)
        module.compute_loss(output, batch)["loss"].backward()
    found = {name: value.grad.clone() for name, value in module.named_parameters() if value.grad is not None}
    sizes = {table.num_embeddings for table in module.model.text_encoder.modules() if isinstance(table, nn.Embedding)}
    return found, sum(made.of[size] for size in sizes)


WORDS = {"new_tokens": ["<sks>"]}


@pytest.mark.parametrize(
    ("text", "adapt", "tables"),
    [
        (None, None, 1),
        (None, {"text": WORDS}, 1),
        (None, {"text": {**WORDS, "lora": {"rank": 2}}}, 1),
        (None, {"text": {"lock": True}}, 0),
        ({"name": "hf", "config": BERT}, {"text": WORDS}, None),
    ],
    ids=["plain", "new words", "new words under LoRA", "locked", "bert"],
)
def test_in_slices_as_of_the_whole_batch(text: Any, adapt: Any, tables: int | None) -> None:
    torch.manual_seed(0)
    module = small_module(**({"text_encoder": text} if text else {}), **({"adapt": adapt} if adapt else {}))
    module.configure_model()
    module.eval()  # BERT's dropout would draw differently for slices
    batch = batch_of(module)
    expected, _ = gradients(module, batch, batch.size, once=False)
    found, made = gradients(module, batch, 4, once=True)
    _, before = gradients(module, batch, 4, once=False)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert (found[name] - value).double().norm() <= 1e-5 * value.double().norm() + 1e-9, name
    if tables is not None:
        assert made == tables
    assert made < before or not before


def test_over_ddp_ranks() -> None:
    """The gradient that DDP averages is the whole one."""

    def one(rank: int, world_size: int) -> Tensor:
        torch.manual_seed(0)
        table = nn.Embedding(10, 4)
        model = DistributedDataParallel(table)
        parts = list(IDS[2 * rank : 2 * rank + 2].split(1))
        tables = OneGradient(table)
        looked_up(model, parts, tables).backward()
        assert table.weight.grad is not None
        return torch.stack([table.weight.grad, plainly(table, parts)])

    found = run_ranks(one, 2)
    mean = (found[0][1] + found[1][1]) / 2
    for grad, _ in found:
        torch.testing.assert_close(grad, mean)


def test_sharded_tables_are_left_to_their_strategy() -> None:
    def one(rank: int, world_size: int) -> int:
        model = nn.Sequential(nn.Embedding(10, 4))
        fully_shard(model, mesh=init_device_mesh("cpu", (world_size,)))
        return len(OneGradient(model)._tables)

    assert run_ranks(one, 2) == [0, 0]
