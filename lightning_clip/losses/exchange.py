"""The exchange between ranks: their texts pass by the images of this one in blocks, and what was added to them comes home.

Images are the rows of the matrix of logits and stay on their rank, texts are its columns and travel. A body of work is
handed to `Exchange.visit`, which lets every column pass by::

    alone    one block: this process' own columns
    gather   one block: the columns of all ranks, O(N d) memory; texts stay for the backward pass where they are few
    ring     a block a rank, handed from neighbour to neighbour, O(N d / ranks) memory

None of them changes what the body computes, only when and where it sees a column.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

__all__ = ["KEPT_BYTES", "LOG_SUM", "Alone", "Exchange", "Gather", "Join", "Ring"]

# Bytes of texts of all ranks that are kept from the forward pass for the backward pass, instead of a second gathering.
KEPT_BYTES = 1 << 28

# What arrives of every column, what is added to for every column, and the column (in this block) of this rank's first
# row's own pair, or None where the block holds no pair of this rank.
Body = Callable[[Sequence[Tensor], Sequence[Tensor], "int | None"], None]


class Join(NamedTuple):
    """How what ranks did to a column is put together.

    Attributes:
        start: what changes nothing.
        into: joins the second tensor into the first, in place.
    """

    start: float
    into: Callable[[Tensor, Tensor], object]


_SUM = Join(0.0, Tensor.add_)
_MAXIMUM = Join(-torch.inf, lambda total, value: torch.maximum(total, value, out=total))
# Of logarithms to base 2.
LOG_SUM = Join(-torch.inf, lambda total, value: torch.logaddexp2(total, value, out=total))


class Exchange:
    """One process: its own columns are all there are. Ranks subclass it.

    Args:
        sizes: columns of each rank, in rank order.
        rank: this rank's place in `sizes`.
        row_sizes: rows of each rank; None where each row has a column of its own.
        longest: the largest norms of an image and of a text of all ranks, where they are known by now.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rank: int = 0,
        row_sizes: Sequence[int] | None = None,
        longest: tuple[float, float] | None = None,
    ) -> None:
        self.sizes, self.rank, self.longest = list(sizes), rank, longest
        self.row_sizes = list(sizes if row_sizes is None else row_sizes)

    @property
    def total(self) -> int:
        """The columns of all ranks together."""
        return sum(self.sizes)

    @property
    def total_rows(self) -> int:
        """The rows of all ranks together."""
        return sum(self.row_sizes)

    @property
    def world_size(self) -> int:
        """Number of ranks that take part."""
        return len(self.sizes)

    @property
    def offset(self) -> int:
        """Number of columns on the ranks before this one."""
        return sum(self.sizes[: self.rank])

    def over(self, sizes: Sequence[int]) -> Exchange:
        """The same ranks, where what each of them brings is counted by `sizes`."""
        return Exchange(sizes, self.rank)

    def block_sizes(self) -> list[int]:
        """The number of columns of each block that `visit` hands to its body."""
        return [self.total]

    def block_offsets(self) -> list[int]:
        """Where among the columns of all ranks each of these blocks begins."""
        return [0]

    def visit(self, carried: Sequence[Tensor], added: Sequence[Tensor], body: Body, maximum: bool = False) -> list[Tensor]:
        """Lets the columns of all ranks pass this rank's rows.

        Args:
            carried: read by the body; per tensor one entry for each column of this rank, (B, ...).
            added: changed in place by the body of every rank; likewise, filled with what to start from.
            body: called as `body(carried, added, diagonal)` for each block of columns.
            maximum: `added` collects maxima instead of sums.

        Returns:
            `added` of this rank's columns, with what all ranks did to them.
        """
        body(carried, added, 0)
        return list(added)

    def forget(self) -> None:
        """Lets go of what was kept for the backward pass."""

    def maximum(self, value: Tensor) -> Tensor:
        """The elementwise maximum over ranks of a tensor of any shape."""
        return value

    def total_of(self, value: Tensor) -> Tensor:
        """The sum over ranks of a tensor of any shape; gradients flow back to all of them."""
        return value

    def all_rows(self, value: Tensor) -> Tensor:
        """What all ranks bring for each of their columns (B, ...), in rank order, (N, ...), without gradient."""
        return value


class Alone(Exchange):
    """One process with `size` columns, and as many rows where `rows` is None."""

    def __init__(self, size: int, rows: int | None = None) -> None:
        super().__init__([size], 0, None if rows is None else [rows])


class _Ranks(Exchange):
    """What both forms over several ranks share."""

    def over(self, sizes: Sequence[int]) -> Exchange:
        return type(self)(sizes, self.rank)

    def maximum(self, value: Tensor) -> Tensor:
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def total_of(self, value: Tensor) -> Tensor:
        total: Tensor = all_reduce(value)  # type: ignore[no-untyped-call]
        return total

    def all_rows(self, value: Tensor) -> Tensor:
        longest = max(self.sizes)
        # Collectives want equal shapes: the shorter ranks bring rows of zeros, cut off again below.
        padded = value.new_zeros(longest, *value.shape[1:])
        padded[: len(value)] = value
        parts = [torch.empty_like(padded) for _ in self.sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, self.sizes, strict=True)])


class Gather(_Ranks):
    """All columns are brought to every rank, what was added to them is reduced and scattered back."""

    _kept: tuple[Tensor, Tensor] | None = None  # texts of this rank, and of all

    def visit(self, carried: Sequence[Tensor], added: Sequence[Tensor], body: Body, maximum: bool = False) -> list[Tensor]:
        everywhere = [self.all_rows(start) for start in added] if maximum else [self._zeros(start) for start in added]
        body(self._arriving(carried), everywhere, self.offset)
        own = [self._scattered(value, maximum) for value in everywhere]
        return own if maximum else [start + value for start, value in zip(added, own, strict=True)]

    def forget(self) -> None:
        self._kept = None

    def _arriving(self, carried: Sequence[Tensor]) -> list[Tensor]:
        """What all ranks carry; vectors (B,) of one type travel together."""
        vectors = [value for value in carried if value.ndim == 1]
        if len({value.dtype for value in vectors}) > 1 or len(vectors) < 2:
            return [self._known_rows(value) for value in carried]
        travelled = iter(self.all_rows(torch.stack(vectors, dim=1)).unbind(dim=1))  # (B, K) -> (N, K) -> K x (N,)
        return [next(travelled).contiguous() if value.ndim == 1 else self._known_rows(value) for value in carried]

    def _known_rows(self, value: Tensor) -> Tensor:
        """As `all_rows`; the same texts are gathered once for both passes, if they fit."""
        if self._kept is not None and self._kept[0] is value:
            return self._kept[1]
        found = self.all_rows(value)
        if value.ndim == 2 and found.numel() * found.element_size() <= KEPT_BYTES and self._kept is None:
            self._kept = value, found
        return found

    def _zeros(self, like: Tensor) -> Tensor:
        return like.new_zeros(self.total, *like.shape[1:])

    def _scattered(self, value: Tensor, maximum: bool) -> Tensor:
        even = len(set(self.sizes)) == 1
        if even and not maximum and dist.get_backend() != "gloo":  # gloo of older torch cannot
            own = value.new_empty(self.sizes[self.rank], *value.shape[1:])
            dist.reduce_scatter_tensor(own, value)
            return own
        dist.all_reduce(value, dist.ReduceOp.MAX if maximum else dist.ReduceOp.SUM)
        return value[self.offset : self.offset + self.sizes[self.rank]].clone()


class Ring(_Ranks):
    """Blocks of columns go from rank to rank and come home after a round, together with what was added to them.

    While a block is worked on, the next one is already under way, and so is what the ranks before did to this one: it arrives
    a step after its block, and nothing but the last step of a round waits for a message alone.
    """

    def block_sizes(self) -> list[int]:
        return [self.sizes[(self.rank - step) % self.world_size] for step in range(self.world_size)]

    def block_offsets(self) -> list[int]:
        return [sum(self.sizes[: (self.rank - step) % self.world_size]) for step in range(self.world_size)]

    def visit(self, carried: Sequence[Tensor], added: Sequence[Tensor], body: Body, maximum: bool = False) -> list[Tensor]:
        return self.round(carried, added, body, _MAXIMUM if maximum else _SUM)

    def round(self, carried: Sequence[Tensor], added: Sequence[Tensor], body: Body, join: Join) -> list[Tensor]:
        """As `visit`; the body gets `added` filled with what changes nothing, and what it leaves there is joined.

        Args:
            carried: read by the body; per tensor one entry for each column of this rank, (B, ...).
            added: likewise, filled with what to start from.
            body: called once for each block of columns, this rank's first.
            join: how what ranks leave is put together.
        """
        block, sums = [columns.contiguous() for columns in carried], list(added)
        for step in range(self.world_size):
            size = self.sizes[(self.rank - step) % self.world_size]
            # What was done to the block before goes on to where that block has gone, and the same comes here for this one.
            arriving, sent = (sums, []) if step == 0 else self._pass_on(sums, size)
            following: list[Tensor] = []
            if step + 1 < self.world_size:
                following, also = self._pass_on(block, self.sizes[(self.rank - step - 1) % self.world_size])
                sent += also
            done = [start.new_full((size, *start.shape[1:]), join.start) for start in added]
            body(block, done, 0 if step == 0 else None)
            _wait(sent)
            for value, others in zip(done, arriving, strict=True):
                join.into(value, others)
            block, sums = following, done
        if self.world_size > 1:
            sums, sent = self._pass_on(sums, self.sizes[self.rank])
            _wait(sent)
        return sums

    def _pass_on(self, tensors: Sequence[Tensor], arriving: int) -> tuple[list[Tensor], list[dist.Work]]:
        """Starts to send to the next rank and to receive from the one before; the list must be waited for."""
        after, before = (self.rank + 1) % self.world_size, (self.rank - 1) % self.world_size
        received = [tensor.new_empty(arriving, *tensor.shape[1:]) for tensor in tensors]
        work = [dist.P2POp(dist.isend, tensor, after) for tensor in tensors]
        work += [dist.P2POp(dist.irecv, tensor, before) for tensor in received]
        return received, dist.batch_isend_irecv(work) if work else []


def _wait(sent: Sequence[dist.Work]) -> None:
    for work in sent:
        work.wait()
