r"""The sigmoid loss on CUDA: three products, the gradient is formed with the loss.

Per chunk of rows one kernel multiplies, adds up the loss and writes the slopes (its gradient by the logits), and two products
lead back to the features. Scale and bias stay on the device, nothing waits for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_clip.losses.cuda_factors import Tile, factors_of, pair_products, scaled
from lightning_clip.losses.cuda_gradients import Columns, Gradients
from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.tiling import refuse_double_backward

__all__ = ["CudaSigmoid", "fill"]

TILE = Tile(128, 128, 64, 4, 3)


class CudaSigmoid(torch.autograd.Function):
    """The loss () of features (B, D), scale (1,), bias (1,) and an `Exchange`, multiplied as `planes` values of `dtype`."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        exchange: Exchange,
        dtype: torch.dtype,
        planes: int,
    ) -> Tensor:
        rows, columns = factors_of(images, dtype, planes), Columns.of(texts, dtype, planes, exchange)
        s = scale.float()
        gradients = Gradients(rows, columns.factors, *ctx.needs_input_grad[:2])
        pairs = pair_products(rows, columns.factors, exchange.offset)
        totals = fill(exchange.offset, pairs, s, bias.float(), gradients)
        ctx.columns, ctx.gradients = columns, gradients
        ctx.save_for_backward(images, texts, scale, bias, s, totals)
        return totals[0] * columns.share

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("sigmoid")
        images, texts, scale, bias, s, totals = ctx.saved_tensors
        gradients: Gradients = ctx.gradients
        weight = upstream[0] * ctx.columns.share
        factor, sums = gradients.factor(weight, s), totals * weight
        return (
            None if gradients.pulled is None else scaled(gradients.pulled, factor, images),
            None if gradients.pushed is None else ctx.columns.home(gradients.pushed, factor, texts),
            sums[2].to(scale.dtype).view(scale.shape),
            sums[1].to(bias.dtype).view(bias.shape),
            *[None] * 3,
        )


def fill(offset: int, pairs: Tensor, scale: Tensor, bias: Tensor, gradients: Gradients) -> Tensor:
    """Fills the gradients from a block of columns.

    Args:
        offset: column of row 0's pair.
        pairs: the pairs' inner products (B,) float32, not read where the block holds none.
        scale: (1,) float32.
        bias: (1,) float32.
        gradients: of images and the block.

    Returns:
        Sums of the loss, of its slopes, and of slope x product (3,) float32.
    """
    from lightning_clip.losses import cuda_sigmoid_kernels as kernels  # here: Triton is absent where CUDA is

    images, texts = gradients.images, gradients.texts
    operands = images.descriptor(TILE.rows, TILE.depth), texts.descriptor(TILE.columns, TILE.depth)
    parts = scale
    for (top, rows), slopes in gradients.slopes():
        grid = TILE.grid(rows, texts.rows)
        if top == 0:
            parts = scale.new_zeros(3, grid[0] * grid[1])
        kernels.sigmoid_fill[grid](
            *operands, pairs[top:] if top else pairs, slopes.planes[0], parts, scale, bias, top, rows, texts.rows, texts.width,
            images.rows, offset + top, slopes.row, slopes.plane, parts.stride(0), PLANES=len(slopes.planes),
            PAIRS=texts.products, GAIN=gradients.gain, **TILE.options(rows, texts.rows),
        )  # fmt: skip
    return parts.sum(dim=1)
