"""The losses on CUDA where the ranks' texts go round: the kernels of `cuda_softmax` and `cuda_sigmoid`, block by block.

The next block is on its way while one is multiplied, and so is what the ranks before have done to this one (`Ring.round`). A
rank holds its own images, two blocks of texts, and the gradients of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_clip.losses import cuda_sigmoid, cuda_softmax
from lightning_clip.losses.cuda_factors import Factors, factors_of, pair_products, scaled
from lightning_clip.losses.cuda_gradients import Gradients
from lightning_clip.losses.exchange import LOG_SUM, Ring
from lightning_clip.losses.tiling import refuse_double_backward

__all__ = ["RingSigmoid", "RingSoftmax"]

# A place so far beyond a block's last column that no tile reaches it.
_BEYOND = 1 << 16


class RingSoftmax(torch.autograd.Function):
    """As `CudaSoftmax`, over a `Ring`: texts go round with their log-sums, then with their gradients. Four products."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        exchange: Ring,
        image_weight: float,
        dtype: torch.dtype,
        planes: int,
    ) -> Tensor:
        blocks, s = _Blocks(images, texts, exchange, dtype, planes), scale.float()
        row_logs = s.new_full((len(images),), -torch.inf)

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            block, place = blocks.arrived(carried[0], diagonal)
            own, column_logs = cuda_softmax.log_sums(blocks.images, block, place, s)
            torch.logaddexp2(row_logs, own, out=row_logs)
            added[0].copy_(column_logs)

        start = s.new_full((len(texts),), -torch.inf)
        (column_logs,) = exchange.round([blocks.texts], [start], body, LOG_SUM)
        loss, own = cuda_softmax.finish(row_logs, column_logs, blocks.pairs, s, image_weight)
        ctx.blocks = blocks
        ctx.save_for_backward(images, texts, scale, s, row_logs, column_logs, own)
        return loss * blocks.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        images, texts, scale, s, row_logs, column_logs, own_slopes = ctx.saved_tensors
        blocks: _Blocks = ctx.blocks
        kept = cuda_softmax.Kept(row_logs, column_logs, own_slopes, blocks.pairs)
        every = blocks.of_ranks(upstream[0])  # (W,)
        largest = every.abs().amax().clamp(min=torch.finfo(every.dtype).tiny)
        weight = every[blocks.exchange.rank] / largest
        gradients = _Gradients(blocks, *ctx.needs_input_grad[:2])
        moments: list[Tensor] = []

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            block, place = blocks.arrived(carried[0], diagonal)
            own, weights = kept._replace(columns=carried[1]), (weight, carried[2])
            moments.append(cuda_softmax.fill(place, s, own, weights, gradients.of(block, added)))

        carried = [blocks.texts, kept.columns, weight.expand(len(texts))]
        pushed = blocks.exchange.visit(carried, gradients.start(), body)
        weight = largest * blocks.share
        return (
            *gradients.scaled(pushed, weight, s, images, texts),
            (torch.stack(moments).sum() * weight).to(scale.dtype).view(scale.shape),
            *[None] * 4,
        )


class RingSigmoid(torch.autograd.Function):
    """As `CudaSigmoid`, over a `Ring`: texts go round once, with their gradients. Three products.

    A text's gradient is the sum of what all ranks do to it, each times the weight of its own loss, which is not known in
    forward. Backward asks whether all weigh alike, as they do but for losses that a program weighs itself by rank; elsewhere
    texts go round again. Their answer is waited for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        exchange: Ring,
        dtype: torch.dtype,
        planes: int,
    ) -> Tensor:
        blocks, s, b = _Blocks(images, texts, exchange, dtype, planes), scale.float(), bias.float()
        gradients = _Gradients(blocks, *ctx.needs_input_grad[:2])
        totals, pushed = _sigmoid_round(blocks, s, b, gradients)
        ctx.blocks, ctx.gradients, ctx.pushed = blocks, gradients, pushed
        ctx.save_for_backward(images, texts, scale, bias, s, totals)
        return totals[0] * blocks.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("sigmoid")
        images, texts, scale, bias, s, totals = ctx.saved_tensors
        blocks, gradients, pushed = ctx.blocks, ctx.gradients, ctx.pushed
        every = blocks.of_ranks(upstream[0])  # (W,)
        weight = every[blocks.exchange.rank] * blocks.share
        found = gradients.scaled(pushed, weight, s, images, texts)
        if pushed and blocks.exchange.world_size > 1 and len(set(every.tolist())) > 1:
            again = _Gradients(blocks, pull=False, push=True)
            _, pushed = _sigmoid_round(blocks, s, bias.float(), again, weight)
            found = found[0], again.scaled(pushed, torch.ones_like(weight), s, images, texts)[1]
        sums = totals * weight
        return (
            *found,
            sums[2].to(scale.dtype).view(scale.shape),
            sums[1].to(bias.dtype).view(bias.shape),
            *[None] * 3,
        )


class _Blocks:
    """The columns that go round.

    Attributes:
        images: of this rank, as factors.
        texts: of this rank (B, D), in the type in which they travel.
        exchange: the ring.
        pairs: inner products of this rank's pairs (B,), known from the first block on.
    """

    pairs: Tensor

    def __init__(self, images: Tensor, texts: Tensor, exchange: Ring, dtype: torch.dtype, planes: int) -> None:
        self.images, self.exchange, self._kind = factors_of(images, dtype, planes), exchange, (dtype, planes)
        self.texts = texts.to(dtype) if planes == 1 else texts

    @property
    def share(self) -> float:
        """Weight of a term of this rank's loss."""
        return self.exchange.world_size / self.exchange.total

    def arrived(self, texts: Tensor, diagonal: int | None) -> tuple[Factors, int]:
        """A block (N, D) as factors, and the column in it of this rank's first pair."""
        block = factors_of(texts, *self._kind)
        if diagonal is None:
            return block, block.rows + _BEYOND
        self.pairs = pair_products(self.images, block, diagonal)
        return block, diagonal

    def of_ranks(self, value: Tensor) -> Tensor:
        """A number () of every rank, (W,) float32."""
        own = value.detach().float().view(1)
        return self.exchange.over([1] * self.exchange.world_size).all_rows(own) if self.exchange.world_size > 1 else own


class _Gradients:
    """What images get of all blocks, and each block's texts of this rank."""

    def __init__(self, blocks: _Blocks, pull: bool, push: bool) -> None:
        self.blocks, self.pull, self.push = blocks, pull, push
        self._found: Gradients | None = None

    def start(self) -> list[Tensor]:
        """Gradients of texts (B, D') as they set out; none where none are wanted."""
        texts, width = self.blocks.texts, self.blocks.images.width
        return [texts.new_zeros(len(texts), width, dtype=torch.float32)] if self.push else []

    def of(self, block: Factors, added: Sequence[Tensor]) -> Gradients:
        """Those of a block, where `added` takes what its texts get."""
        if self._found is None:
            self._found = Gradients(self.blocks.images, block, self.pull, push=False)
        else:
            self._found.go_on()
        self._found.texts, self._found.pushed = block, added[0] if added else None
        return self._found

    def scaled(
        self, pushed: Sequence[Tensor], weight: Tensor, scale: Tensor, images: Tensor, texts: Tensor
    ) -> tuple[Tensor | None, Tensor | None]:
        """The gradients of images and texts, each of the type and shape of its own."""
        assert self._found is not None
        factor, pulled = self._found.factor(weight, scale), self._found.pulled
        return (
            None if pulled is None else scaled(pulled, factor, images),
            scaled(pushed[0], factor, texts) if pushed else None,
        )


def _sigmoid_round(
    blocks: _Blocks, scale: Tensor, bias: Tensor, gradients: _Gradients, weight: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Sums of the loss, of its slopes, and of slope x product (3,); what texts get, each rank's part times its `weight`."""
    parts: list[Tensor] = []

    def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
        block, place = blocks.arrived(carried[0], diagonal)
        parts.append(cuda_sigmoid.fill(place, blocks.pairs, scale, bias, gradients.of(block, added)))
        if weight is not None:
            added[0].mul_(weight)

    pushed = blocks.exchange.visit([blocks.texts], gradients.start(), body)
    return torch.stack(parts).sum(dim=0), pushed
