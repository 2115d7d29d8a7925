"""Look-ups in tables of token vectors that make one gradient a batch, into however many parts the batch is cut.

The gradient of a look-up is as large as its table, tens of thousands of rows, nearly all of them zeros: one for every slice or
chunk of a batch costs more than the text tower of a small slice. Here the first look-up of a backward pass makes it, the
others add their rows to it, and the table gets it whole, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

__all__ = ["OneGradient"]


class OneGradient:
    """The look-ups of one batch in a model's learned tables.

    Frozen tables, sharded ones, those that do more than look up and those inside a compiled module are left as they are.

    Args:
        model: whose embeddings are looked up. Sharding strategies bring weights together during each pass and take their
            gradients after it, so that under them every pass has its own.

    Examples:
        >>> model = nn.Sequential(nn.Embedding(1000, 4))
        >>> tables = OneGradient(model)
        >>> parts = []
        >>> for ids in torch.tensor([[1, 2], [2, 3]]):
        ...     with tables.in_use():
        ...         parts.append(model(ids))
        >>> torch.cat(parts).sum().backward()
        >>> model[0].weight.grad[1:4, 0].tolist()
        [1.0, 2.0, 1.0]
    """

    def __init__(self, model: nn.Module) -> None:
        self._tables = [(table, _Gathered(table)) for table in _tables_of(model)] if torch.is_grad_enabled() else []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Everything inside looks up by way of this; again when a part is computed again in backward."""
        with ExitStack() as stack:
            for table, gathered in self._tables:
                table.forward = partial(_look_up, table, gathered)  # type: ignore[method-assign]
                stack.callback(table.__dict__.pop, "forward")
            yield


class _Gathered:
    """Where the gradient of a table is gathered during a backward pass.

    Attributes:
        handle: () 0, on which all look-ups depend and which depends on the table: its own gradient comes after theirs.
        total: (V, W), None between backward passes.
    """

    def __init__(self, table: nn.Embedding) -> None:
        self.size, self.padding = table.num_embeddings, -1 if table.padding_idx is None else table.padding_idx
        self.total: Tensor | None = None
        self.handle: Tensor = _Handle.apply(table.weight, self)  # type: ignore[no-untyped-call]

    def add(self, ids: Tensor, gradient: Tensor) -> None:
        """Adds gradients (..., W) to the rows `ids` (...)."""
        if self.total is None or ids.device.type != "cpu":
            # Of CUDA's additions this is the one whose order is always the same.
            own = torch.ops.aten.embedding_dense_backward(gradient, ids, self.size, self.padding, False)
            self.total = own if self.total is None else self.total.add_(own)
            return
        rows, vectors = ids.flatten(), gradient.flatten(0, -2)  # (...) -> (T,), (..., W) -> (T, W)
        if self.padding >= 0:
            vectors = vectors.masked_fill((rows == self.padding)[:, None], 0)
        self.total.index_add_(0, rows, vectors)

    def take(self) -> Tensor | None:
        """What was gathered; the next backward pass begins anew."""
        total, self.total = self.total, None
        return total


class _Handle(Function):
    """From a table (V, W) to ()."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gathered: _Gathered) -> Tensor:
        ctx.gathered = gathered
        return weight.new_zeros(())

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, _: Tensor) -> Any:
        return ctx.gathered.take(), None


class _LookUp(Function):
    """Vectors (..., W) of ids (...) in a table (V, W), whose gradient goes where the handle's will take it."""

    @staticmethod
    def forward(ctx: Any, handle: Tensor, weight: Tensor, ids: Tensor, gathered: _Gathered) -> Tensor:
        ctx.gathered = gathered
        ctx.save_for_backward(ids)
        return embedding(ids, weight)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (ids,) = ctx.saved_tensors
        ctx.gathered.add(ids, gradient)
        return gradient.new_zeros(()), None, None, None


def _look_up(table: nn.Embedding, gathered: _Gathered, input: Tensor) -> Tensor:
    if torch.compiler.is_compiling():  # a trace of a backward pass leaves out what it does beside its result
        return embedding(input, table.weight, table.padding_idx)
    found: Tensor = _LookUp.apply(gathered.handle, table.weight.detach(), input, gathered)  # type: ignore[no-untyped-call]
    return found


def _tables_of(model: nn.Module) -> list[nn.Embedding]:
    """The learned tables that do nothing but look up, each once."""
    from torch.distributed.fsdp import FSDPModule  # here: it is slow to import

    layers = list(model.modules())
    if any(isinstance(layer, FSDPModule) for layer in layers):
        return []
    compiled = {part for layer in layers if layer._compiled_call_impl is not None for part in layer.modules()}
    return [layer for layer in layers if isinstance(layer, nn.Embedding) and layer not in compiled and _is_plain(layer)]


def _is_plain(table: nn.Embedding) -> bool:
    weight = table.weight
    plain = type(table).forward is nn.Embedding.forward and "forward" not in table.__dict__ and type(weight) is nn.Parameter
    usual = table.max_norm is None and not table.scale_grad_by_freq and not table.sparse
    # Where a strategy has taken a weight away, another shape is left.
    return plain and usual and weight.requires_grad and weight.shape == (table.num_embeddings, table.embedding_dim)
