"""Separate embeddings for new tokens of a text tower, beside a table of token vectors that may be frozen.

The old vectors and those of the new tokens are two parameters, so that locks, adapters, rates and checkpoints can tell them
apart by name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lightning_clip.encoders.base import TextEncoder

__all__ = ["GrownTable", "add_new_tokens", "has_new_tokens", "join_new_tokens", "new_token_names", "without_new_tokens"]

_OLD, _NEW = ".old_tokens.", ".new_tokens."


class GrownTable(nn.Module):
    """A table of token vectors, and beside it the rows of new tokens, which are learned while the table may be frozen.

    Nothing is copied in a lookup. Where no token is new the rows have a gradient of zeros, not none: under DDP every rank needs
    one.

    Args:
        table: of V tokens, of any class of embeddings.
        first: the id from which on tokens are new.
        count: how many are new; they begin as the mean of the old vectors.

    Examples:
        >>> table = GrownTable(nn.Embedding(10, 4), first=10, count=2)
        >>> table(torch.tensor([[0, 9, 10, 11]])).shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, table: nn.Embedding, first: int, count: int) -> None:
        super().__init__()
        self.first, self.count = first, count
        self.old_tokens = table
        start = table.weight.detach()[:first].mean(dim=0, keepdim=True).repeat(count, 1)
        # Of the table's own class, which may do more than look up (some multiply), without a copy of its vectors.
        self.new_tokens: nn.Embedding = copy.deepcopy(table, {id(table.weight): nn.Parameter(start)})
        self.new_tokens.num_embeddings, self.new_tokens.padding_idx = count, None

    def forward(self, tokens: Tensor) -> Tensor:
        """Ids int64 (B, L) -> vectors (B, L, W)."""
        new = tokens >= self.first
        old_vectors = self.old_tokens(tokens.masked_fill(new, 0))
        new_vectors = self.new_tokens((tokens - self.first).clamp(min=0))  # (B, L) -> (B, L, W)
        return torch.where(new.unsqueeze(-1), new_vectors, old_vectors)  # (B, L, 1) chooses among (B, L, W)


def add_new_tokens(encoder: TextEncoder, first: int, count: int) -> None:
    """Gives a tower's table rows for new tokens, in place; `encoder.vocab_size` goes on saying what the tower was built for.

    Raises:
        InputError: a tower without `token_table()`.
    """
    table = encoder.token_table()
    assert isinstance(table, nn.Embedding)
    _replace(encoder, table, GrownTable(table, first, count))


def join_new_tokens(encoder: TextEncoder) -> None:
    """Puts the new rows under the old ones, in place: one ordinary table."""
    tables = [layer for layer in encoder.modules() if isinstance(layer, GrownTable)]
    for grown in tables:
        _replace(encoder, grown, grown.old_tokens)
        end = grown.first + grown.count
        encoder.grow(end, encoder.context_length)
        table = encoder.token_table()
        assert isinstance(table, nn.Embedding)
        with torch.no_grad():
            table.weight[grown.first : end] = grown.new_tokens.weight


def new_token_names(module: nn.Module) -> set[str]:
    """Names of the parameters that are rows of new tokens."""
    return {name for name, _ in module.named_parameters() if has_new_tokens([name])}


def has_new_tokens(names: Iterable[str]) -> bool:
    """Whether a weight of these names is of new tokens alone."""
    return any(_NEW in f".{name}" for name in names)


def without_new_tokens(name: str) -> str:
    """A weight's name in a tower whose table has no new rows."""
    return name.replace(_OLD, ".")


def _replace(encoder: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    """Wherever the tower holds the layer: some hold their table twice, or two tables of the same weights."""
    weight = getattr(layer, "weight", None)
    for parent in list(encoder.modules()):
        for name, child in list(parent._modules.items()):
            if child is layer or (isinstance(child, nn.Embedding) and child.weight is weight):
                setattr(parent, name, by)
