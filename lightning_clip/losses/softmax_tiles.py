r"""The softmax contrastive loss in tiles, with its gradient: exact, one matrix product and one exponential a tile.

With logits :math:`z_{ij} = s\,u_i v_j` and the sums over the *others*
:math:`r_i = \log \sum_{j \ne i} e^{z_{ij}}` and :math:`c_j = \log \sum_{i \ne j} e^{z_{ij}}`, the loss is

.. math:: L = \frac{1}{N} \sum_i w \operatorname{softplus}(r_i - z_{ii}) + (1 - w) \operatorname{softplus}(c_i - z_{ii})

The pair itself never enters a sum: were it subtracted from one afterwards, converged batches would lose their gradient to
rounding. One exponential :math:`E_{ij} = e^{z_{ij} - m}` with one shift m serves both directions. Where it underflows for a
whole row or column, two passes with each row's and column's own maximum take over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.softmax_sums import Operands, Sums
from lightning_clip.losses.tiling import (
    DENSE_BYTES,
    Tile,
    Tiles,
    add_product,
    default_tile_size,
    full_precision,
    refuse_double_backward,
    row_products,
    wide,
)

__all__ = ["LogitGradient", "SoftmaxTiles", "choose_tiles", "gradients", "tile_gradient"]


def gradients(operands: Operands, sums: Sums, tiles: Tiles, kept: bool, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the images (B, D), texts (B, D) and scale () of this rank, `upstream` being the gradient of its loss."""
    high = wide(operands.images.device)
    share = upstream.to(high) * (operands.exchange.world_size / operands.exchange.total)
    weights = (operands.image_weight * share, (1 - operands.image_weight) * share)
    # What a pair gains is what its row and its column lose to the others.
    own = weights[0] * (sums.row_log - sums.pair).sigmoid() + weights[1] * (sums.column_log - sums.pair).sigmoid()
    own = own.to(operands.dtype)[:, None]
    pulled = torch.zeros_like(operands.images, dtype=operands.dtype)  # of images, before the scale: sum_j dL/dz_ij v_j
    totals = [sums.pair + softplus(others - sums.pair) for others in (sums.row_log, sums.column_log)]
    fill = LogitGradient(sums.shift, totals, weights, operands.dtype)

    def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
        texts, *columns = carried
        for tile in tiles.of(len(texts), diagonal):
            values = tile_gradient(operands, fill, texts, columns, tile, tiles, kept)
            add_product(pulled[tile.rows], values, texts[tile.columns])
            add_product(added[0][tile.columns], values.t(), operands.images[tile.rows])

    start = torch.zeros_like(operands.texts, dtype=operands.dtype)
    (pushed,) = operands.exchange.visit([operands.texts, *fill.columns], [start], body)
    pulled.addcmul_(own, operands.texts.to(operands.dtype), value=-1)
    pushed.addcmul_(own, operands.images.to(operands.dtype), value=-1)
    scale_gradient = row_products(pulled, operands.images).sum()
    return pulled.mul_(operands.scale), pushed.mul_(operands.scale), scale_gradient


def tile_gradient(
    operands: Operands,
    fill: LogitGradient,
    texts: Tensor,
    columns: Sequence[Tensor],
    tile: Tile,
    tiles: Tiles,
    kept: bool,
) -> Tensor:
    """The gradient of the loss by the logits of a tile (H, W), 0 at the pairs.

    Args:
        operands: images, texts and scale.
        fill: turns exponentials, or logits, into it.
        texts: (M, D), the block of columns that is visiting.
        columns: what `fill` needs of them, (M,) each.
        tile: rows and columns.
        tiles: the memory in which it is written.
        kept: whether that memory holds the exponentials already.
    """
    values = tiles.buffer(tile)
    if fill.shift is None:
        operands.others(texts, tile, values)
    elif not kept:
        operands.exponentials(texts, tile, values, fill.shift)
    fill(values, tile, columns, tiles)
    return values


class LogitGradient:
    """Turns a tile of exponentials (or of logits, without a shift) into the gradient of the loss by the logits, in place.

    Args:
        shift: what was subtracted from the logits before the exponential, (), or None.
        totals: the log-sums over all columns of each row, and over all rows of each column, (B,) each.
        weights: of rows and columns in the loss, () or (B,) each.
        dtype: of the tiles.
    """

    def __init__(
        self, shift: Tensor | None, totals: Sequence[Tensor], weights: tuple[Tensor, Tensor], dtype: torch.dtype
    ) -> None:
        self.shift, (row_total, column_total) = shift, totals
        if shift is not None:
            self.rows = [(weights[0] * (shift - row_total).exp()).to(dtype)]
            self.columns = [(weights[1] * (shift - column_total).exp()).to(dtype)]
        else:
            self.rows = [weights[0].expand_as(row_total).to(dtype), row_total.to(dtype)]
            self.columns = [weights[1].expand_as(column_total).to(dtype).contiguous(), column_total.to(dtype)]

    def __call__(self, values: Tensor, tile: Tile, columns: Sequence[Tensor], tiles: Tiles) -> None:
        down, across = [part[tile.rows, None] for part in self.rows], [part[tile.columns] for part in columns]
        for rows, band, spare in tiles.bands(values):
            if self.shift is not None:
                band.mul_(torch.add(down[0][rows], across[0], out=spare))
                continue
            torch.sub(band, across[1], out=spare).exp_().mul_(across[0])
            band.sub_(down[1][rows]).exp_().mul_(down[0][rows]).add_(spare)


class SoftmaxTiles(torch.autograd.Function):
    """The loss () of features (B, D), a scale (1,), an `Exchange`, the weight of images and a tile size (None: by size)."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, texts: Tensor, scale: Tensor, exchange: Exchange, image_weight: float, tile_size: int | None
    ) -> Tensor:
        """Features (B, D) of both towers and scale (1,) -> loss ()."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        with full_precision(images.device):
            s = scale.detach().to(dtype).view(())
            operands = Operands(images.contiguous(), texts.contiguous(), s, exchange, image_weight)
            tiles = choose_tiles(operands, tile_size)
            sums = operands.sums(tiles)
            ctx.operands, ctx.sums, ctx.tiles, ctx.shape = operands, sums, tiles, scale.shape
            # Exponentials are worth keeping only with one shift; logits of the two-pass form were overwritten.
            ctx.kept = tiles.matrix is not None and sums.shift is not None
            ctx.save_for_backward(images, texts, scale)
            return operands.loss(sums).to(dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        images, texts, scale = ctx.saved_tensors
        with full_precision(images.device):
            found = gradients(ctx.operands, ctx.sums, ctx.tiles, ctx.kept, upstream[0])
        ctx.operands.exchange.forget()
        ctx.kept = False  # the gradient was written over the exponentials: a second backward computes them again
        image_gradient, text_gradient, scale_gradient = found
        return (
            image_gradient.to(images.dtype),
            text_gradient.to(texts.dtype),
            scale_gradient.to(scale.dtype).view(ctx.shape),
            *[None] * 3,
        )


def choose_tiles(operands: Operands, tile_size: int | None, make: Callable[..., Tiles] = Tiles) -> Tiles:
    """Tiles of the size that is asked for; without one, a small matrix is kept whole and a large one is cut.

    Args:
        operands: images, texts and how columns come by.
        tile_size: rows and columns of a tile, or None.
        make: called like `Tiles`.
    """
    rows, blocks = len(operands.images), operands.exchange.block_sizes()
    fits = rows * blocks[0] * operands.dtype.itemsize <= DENSE_BYTES
    dense = tile_size is None and len(blocks) == 1 and fits
    like = operands.images.new_empty(0, dtype=operands.dtype)
    return make(rows, like, tile_size or default_tile_size(like.device), kept=blocks[0] if dense else None)
