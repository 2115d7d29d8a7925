r"""The softmax loss on CUDA: four products, nothing of the matrix of logits is kept.

With logits :math:`z_{ij} = s\,u_i v_j` and the sums over the *others* :math:`r_i = \log \sum_{j \ne i} e^{z_{ij}}` and
:math:`c_j = \log \sum_{i \ne j} e^{z_{ij}}`

.. math:: L = \frac{1}{N} \sum_i w \operatorname{softplus}(r_i - z_{ii}) + (1 - w) \operatorname{softplus}(c_i - z_{ii})

Each row and column of a tile is summed up by its own maximum, so that no range of logits needs another way and nothing waits
for the device to decide. The pair itself never enters a sum, or converged batches would lose their gradient to rounding.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_clip.losses.cuda_factors import Factors, Tile, factors_of, pair_products, scaled
from lightning_clip.losses.cuda_gradients import Columns, Gradients, chunks_of
from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.tiling import refuse_double_backward

__all__ = ["CudaSoftmax", "Kept", "fill", "finish", "log_sums"]

SUMS, TILE = Tile(128, 128, 64, 4, 3), Tile(128, 128, 64, 8, 3)
# Log-sums (down) and places (across) of a program that merges them; places of one that finishes.
MERGE_DEPTH, MERGE_WIDTH, FINISH_WIDTH = 64, 32, 1024


class CudaSoftmax(torch.autograd.Function):
    """The loss () of features (B, D), scale (1,), an `Exchange`, the images' weight; as `planes` values of `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        exchange: Exchange,
        image_weight: float,
        dtype: torch.dtype,
        planes: int,
    ) -> Tensor:
        rows, columns = factors_of(images, dtype, planes), Columns.of(texts, dtype, planes, exchange)
        s = scale.float()
        loss, kept = _sums(rows, columns, s, image_weight)
        ctx.rows, ctx.columns = rows, columns
        ctx.save_for_backward(images, texts, scale, s, *kept)
        return loss * columns.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        images, texts, scale, s, *kept = ctx.saved_tensors
        columns: Columns = ctx.columns
        gradients = Gradients(ctx.rows, columns.factors, *ctx.needs_input_grad[:2])
        weights, weight = _rank_weights(upstream[0], columns)
        moment = fill(columns.exchange.offset, s, Kept(*kept), weights, gradients)
        weight = weight * columns.share
        factor = gradients.factor(weight, s)
        return (
            None if gradients.pulled is None else scaled(gradients.pulled, factor, images),
            None if gradients.pushed is None else columns.home(gradients.pushed, factor, texts),
            (moment * weight).to(scale.dtype).view(scale.shape),
            *[None] * 4,
        )


class Kept(NamedTuple):
    """What the gradient needs of the forward half, all float32.

    Attributes:
        rows: (B,), log2 of each row's whole sum, less log2 of the rows' weight.
        columns: (N,), likewise the columns'.
        own: (B,), the slope of each pair.
        pairs: (B,), the pairs' inner products.
    """

    rows: Tensor
    columns: Tensor
    own: Tensor
    pairs: Tensor


def _sums(images: Factors, columns: Columns, scale: Tensor, image_weight: float) -> tuple[Tensor, Kept]:
    """The summed loss (), and what the gradient needs."""
    exchange = columns.exchange
    pairs = pair_products(images, columns.factors, exchange.offset)
    row_logs, column_logs = log_sums(images, columns.factors, exchange.offset, scale)
    if exchange.world_size > 1:
        top = exchange.maximum(column_logs).nan_to_num(neginf=0.0)
        column_logs = top + exchange.total_of((column_logs - top).exp2()).log2()
        column_logs = column_logs[exchange.offset : exchange.offset + images.rows].contiguous()  # (N,) -> (B,)
    loss, own = finish(row_logs, column_logs, pairs, scale, image_weight)
    return loss, Kept(row_logs, exchange.all_rows(column_logs), own, pairs)


def log_sums(images: Factors, texts: Factors, offset: int, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log2 of the sums over the others of each row (B,) and of each column over this rank's rows (N,), in a block of columns.

    Args:
        images: of this rank.
        texts: the block.
        offset: column of row 0's pair.
        scale: (1,) float32.
    """
    from lightning_clip.losses import cuda_softmax_kernels as kernels  # here: Triton is absent where CUDA is

    tile = SUMS
    row_logs, column_logs = scale.new_empty(images.rows), scale.new_full((texts.rows,), -torch.inf)
    operands = images.descriptor(tile.rows, tile.depth), texts.descriptor(tile.columns, tile.depth)
    down, across = scale, scale
    for top, rows in chunks_of(images, texts):
        grid = tile.grid(rows, texts.rows)
        if top == 0:
            down, across = scale.new_empty(grid[1], rows), scale.new_empty(grid[0], texts.rows)
        strides = down.stride(0), across.stride(0)
        kernels.softmax_sums[grid](
            *operands, scale, down, across, top, rows, texts.rows, texts.width, images.rows, offset + top,
            *strides, PAIRS=texts.products, **tile.options(rows, texts.rows),
        )  # fmt: skip
        kernels.merge_logs[(-(-rows // MERGE_WIDTH) - (-texts.rows // MERGE_WIDTH),)](
            down, across, row_logs[top:] if top else row_logs, column_logs, rows, texts.rows, grid[1], grid[0], *strides,
            DEPTH=MERGE_DEPTH, WIDTH=MERGE_WIDTH,
        )  # fmt: skip
    return row_logs, column_logs


def finish(rows: Tensor, columns: Tensor, pairs: Tensor, scale: Tensor, image_weight: float) -> tuple[Tensor, Tensor]:
    """The summed loss () and the pairs' slopes (B,); log-sums over the others become what `Kept` holds, in place."""
    from lightning_clip.losses import cuda_softmax_kernels as kernels  # here: Triton is absent where CUDA is

    own, parts = torch.empty_like(pairs), pairs.new_empty(-(-len(pairs) // FINISH_WIDTH))
    weights = float(image_weight), 1.0 - image_weight
    minus_logs = [-math.log2(weight) if weight > 0 else math.inf for weight in weights]
    kernels.softmax_finish[(len(parts),)](
        rows, columns, pairs, own, parts, scale, len(pairs), *weights, *minus_logs, WIDTH=FINISH_WIDTH
    )
    return parts.sum(), own


def _rank_weights(upstream: Tensor, columns: Columns) -> tuple[tuple[Tensor, Tensor] | None, Tensor]:
    """Weights of this rank's rows () and of every column (N,), at most 1, and what both are to be multiplied by, ().

    A column's loss is its own rank's: where ranks weigh their losses differently, the slopes of a row do too.
    """
    exchange = columns.exchange
    if exchange.world_size == 1:
        return None, upstream
    every = exchange.all_rows(upstream.float().expand(exchange.sizes[exchange.rank]))
    largest = every.abs().amax().clamp(min=torch.finfo(every.dtype).tiny)
    return (upstream.float() / largest, every / largest), largest


def fill(offset: int, scale: Tensor, kept: Kept, weights: tuple[Tensor, Tensor] | None, gradients: Gradients) -> Tensor:
    """Fills the gradients from a block of columns.

    Args:
        offset: column of row 0's pair.
        scale: (1,) float32.
        kept: of the forward half, of the columns those of the block.
        weights: of the loss of this rank's rows () and of the columns (N,), at most 1; None where all are 1.
        gradients: of images and the block.

    Returns:
        The sum of slope x product ().
    """
    from lightning_clip.losses import cuda_softmax_kernels as kernels  # here: Triton is absent where CUDA is

    images, texts = gradients.images, gradients.texts
    operands = images.descriptor(TILE.rows, TILE.depth), texts.descriptor(TILE.columns, TILE.depth)
    parts = scale
    for (top, rows), slopes in gradients.slopes():
        grid = TILE.grid(rows, texts.rows)
        if top == 0:
            parts = scale.new_zeros(grid[0] * grid[1])
        own = (part[top:] if top else part for part in (kept.pairs, kept.rows, kept.own))
        kernels.softmax_fill[grid](
            *operands, *own, kept.columns, *(weights or (scale, scale)), slopes.planes[0], parts, scale, top, rows, texts.rows,
            texts.width, images.rows, offset + top, slopes.row, slopes.plane, WEIGHTED=weights is not None,
            PLANES=len(slopes.planes), PAIRS=texts.products, GAIN=gradients.gain, **TILE.options(rows, texts.rows),
        )  # fmt: skip
    return parts.sum()
