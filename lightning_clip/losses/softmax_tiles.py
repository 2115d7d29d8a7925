r"""The softmax contrastive loss in tiles, with its gradient: exact, one matrix product and one exponential a tile.

With logits :math:`z_{ij} = s\,u_i v_j` and the sums over the *others*
:math:`r_i = \log \sum_{j \ne i} e^{z_{ij}}` and :math:`c_j = \log \sum_{i \ne j} e^{z_{ij}}`, the loss is

.. math:: L = \frac{1}{N} \sum_i w \operatorname{softplus}(r_i - z_{ii}) + (1 - w) \operatorname{softplus}(c_i - z_{ii})

The pair itself never enters a sum: were it subtracted from one afterwards, converged batches would lose their gradient to
rounding. One exponential :math:`E_{ij} = e^{z_{ij} - m}` with one shift m serves both directions. Where it underflows for a
whole row or column, two passes with each row's and column's own maximum take over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.fused import add_product, exponential_sums, fused_wins, softmax_gradient
from lightning_clip.losses.gather import Exchange
from lightning_clip.losses.tiling import (
    DENSE_BYTES,
    Tile,
    Tiles,
    default_tile_size,
    full_precision,
    refuse_double_backward,
    row_products,
    wide,
)

__all__ = ["SoftmaxTiles"]

# Unit features bound the logits by the scale. Shifted so that the bound becomes 60, e^60 times any number of columns is
# far from overflow in float32, and most logits below the bound far from underflow.
_HIGHEST = 60.0


class _Sums(NamedTuple):
    """Of this rank's rows and columns, in wide precision.

    Attributes:
        row_log: r (B,).
        column_log: c (B,).
        pair: z_ii (B,).
        shift: m (), or None where each row and column has its own.
    """

    row_log: Tensor
    column_log: Tensor
    pair: Tensor
    shift: Tensor | None


@dataclass(frozen=True)
class _Problem:
    """The operands: images (B, D) and texts (B, D) in their own type, which travels, and how columns come by."""

    images: Tensor
    texts: Tensor
    scale: Tensor
    exchange: Exchange
    image_weight: float
    fused: bool

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and gradients: at least float32."""
        return torch.promote_types(self.images.dtype, torch.float32)

    def multiply(self, texts: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """The logits of a tile, s u v."""
        return torch.mm(self.images[tile.rows].to(self.dtype) * self.scale, texts[tile.columns].to(self.dtype).t(), out=out)

    def exponentials(self, texts: Tensor, tile: Tile, out: Tensor, shift: Tensor) -> Tensor:
        """The values exp(z - shift) of a tile, 0 at the pairs."""
        self.multiply(texts, tile, out)
        if out.device.type != "cpu" or shift > 0:  # only on the CPU is it free to ask
            out.sub_(shift)
        out.exp_()
        if (pairs := tile.pairs(out)) is not None:
            pairs.zero_()
        return out

    def others(self, texts: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """The logits of a tile, minus infinity at the pairs."""
        self.multiply(texts, tile, out)
        if (pairs := tile.pairs(out)) is not None:
            pairs.fill_(-torch.inf)
        return out

    def sums(self, tiles: Tiles) -> _Sums:
        high = wide(self.images.device)
        pair = self.scale.to(high) * row_products(self.images, self.texts)
        longest = torch.stack([features.norm(dim=1, dtype=self.dtype).amax() for features in (self.images, self.texts)])
        bound = self.scale.abs() * self.exchange.maximum(longest).prod()
        shift = (bound - _HIGHEST).clamp(min=0)
        rows, columns = self._sum_exponentials(tiles, shift)
        found = _Sums(rows.log() + shift, columns.log() + shift, pair, shift)
        if self.exchange.total > 1 and self._underflown(rows, columns):
            return _Sums(*self._sum_from_maxima(tiles), pair, None)
        return found

    def _sum_exponentials(self, tiles: Tiles, shift: Tensor) -> tuple[Tensor, Tensor]:
        """The sums over the others of exp(z - shift), of rows and of columns."""
        high = wide(self.images.device)
        rows = torch.zeros(len(self.images), dtype=high, device=self.images.device)

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            (texts,), (columns,) = carried, added
            for tile in tiles.of(len(texts), diagonal):
                down, across = self._tile_sums(texts, tile, tiles, shift)
                rows[tile.rows] += down
                columns[tile.columns] += across

        (columns,) = self.exchange.visit([self.texts], [torch.zeros_like(rows)], body)
        return rows, columns

    def _tile_sums(self, texts: Tensor, tile: Tile, tiles: Tiles, shift: Tensor) -> tuple[Tensor, Tensor]:
        if self.fused:
            return exponential_sums(self.images[tile.rows], texts[tile.columns], self.scale, shift, tile.diagonal)
        values = self.exponentials(texts, tile, tiles.buffer(tile), shift)
        return values.sum(dim=1), values.sum(dim=0)

    def _underflown(self, rows: Tensor, columns: Tensor) -> bool:
        """Whether, on any rank, the values lost below float32's smallest could matter to a sum."""
        limits = torch.finfo(self.dtype)
        lowest = self.exchange.total * limits.tiny / limits.eps
        lost = (rows < lowest).any() | (columns < lowest).any()
        return bool(self.exchange.maximum(lost.to(torch.float32)))

    def _sum_from_maxima(self, tiles: Tiles) -> tuple[Tensor, Tensor]:
        """The logarithms r and c, by the maximum of each row and column."""
        high = wide(self.images.device)
        row_maximum = self.images.new_full((len(self.images),), -torch.inf, dtype=self.dtype)

        def maxima(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            for tile in tiles.of(len(carried[0]), diagonal):
                values = self.others(carried[0], tile, tiles.buffer(tile))
                row_maximum[tile.rows] = row_maximum[tile.rows].maximum(values.amax(dim=1))
                added[0][tile.columns] = added[0][tile.columns].maximum(values.amax(dim=0))

        (column_maximum,) = self.exchange.visit([self.texts], [torch.full_like(row_maximum, -torch.inf)], maxima, maximum=True)
        rows = torch.zeros(len(self.images), dtype=high, device=self.images.device)

        def sums(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            texts, maximum = carried
            for tile in tiles.of(len(texts), diagonal):
                values = self.others(texts, tile, tiles.buffer(tile))
                rows[tile.rows] += (values - row_maximum[tile.rows, None]).exp_().sum(dim=1)
                added[0][tile.columns] += values.sub_(maximum[tile.columns]).exp_().sum(dim=0)

        (columns,) = self.exchange.visit([self.texts, column_maximum], [torch.zeros_like(rows)], sums)
        return rows.log() + row_maximum, columns.log() + column_maximum

    def loss(self, sums: _Sums) -> Tensor:
        """Of this rank; its mean over ranks is the loss of the concatenated batch."""
        to_text, to_image = softplus(sums.row_log - sums.pair), softplus(sums.column_log - sums.pair)
        total = self.image_weight * to_text.sum() + (1 - self.image_weight) * to_image.sum()
        return total * (self.exchange.world_size / self.exchange.total)

    def gradients(self, sums: _Sums, tiles: Tiles, kept: bool, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of the images (B, D), texts (B, D) and scale () of this rank, `upstream` being the gradient of its loss."""
        high = wide(self.images.device)
        share = upstream.to(high) * (self.exchange.world_size / self.exchange.total)
        weights = (self.image_weight * share, (1 - self.image_weight) * share)
        # What a pair gains is what its row and its column lose to the others.
        own = weights[0] * (sums.row_log - sums.pair).sigmoid() + weights[1] * (sums.column_log - sums.pair).sigmoid()
        own = own.to(self.dtype)[:, None]
        pulled = torch.zeros_like(self.images, dtype=self.dtype)  # of images, before the scale: sum_j dL/dz_ij v_j
        fill = _Gradient(sums, weights, self.dtype)

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            texts, *columns = carried
            for tile in tiles.of(len(texts), diagonal):
                values = self._tile_gradient(sums, fill, texts, columns, tile, tiles, kept)
                add_product(pulled[tile.rows], values, texts[tile.columns])
                add_product(added[0][tile.columns], values.t(), self.images[tile.rows])

        start = torch.zeros_like(self.texts, dtype=self.dtype)
        (pushed,) = self.exchange.visit([self.texts, *fill.columns], [start], body)
        pulled.addcmul_(own, self.texts.to(self.dtype), value=-1)
        pushed.addcmul_(own, self.images.to(self.dtype), value=-1)
        scale_gradient = row_products(pulled, self.images).sum()
        return pulled.mul_(self.scale), pushed.mul_(self.scale), scale_gradient

    def _tile_gradient(
        self, sums: _Sums, fill: _Gradient, texts: Tensor, columns: Sequence[Tensor], tile: Tile, tiles: Tiles, kept: bool
    ) -> Tensor:
        """The gradient of the loss by the logits of a tile, apart from the pairs."""
        if self.fused and sums.shift is not None:
            weights = fill.rows[0][tile.rows], columns[0][tile.columns]
            return softmax_gradient(
                self.images[tile.rows], texts[tile.columns], self.scale, sums.shift, *weights, tile.diagonal
            )
        values = tiles.buffer(tile)
        if sums.shift is None:
            self.others(texts, tile, values)
        elif not kept:
            self.exponentials(texts, tile, values, sums.shift)
        fill(values, tile, columns, tiles)
        return values


class _Gradient:
    """Turns a tile of exponentials (or of logits, without a shift) into the gradient of the loss by the logits, in place."""

    def __init__(self, sums: _Sums, weights: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
        row_total = sums.pair + softplus(sums.row_log - sums.pair)
        column_total = sums.pair + softplus(sums.column_log - sums.pair)
        self.shifted = sums.shift is not None
        if sums.shift is not None:
            self.rows = [(weights[0] * (sums.shift - row_total).exp()).to(dtype)]
            self.columns = [(weights[1] * (sums.shift - column_total).exp()).to(dtype)]
        else:
            self.rows = [weights[0].expand_as(row_total).to(dtype), row_total.to(dtype)]
            self.columns = [weights[1].expand_as(column_total).to(dtype).contiguous(), column_total.to(dtype)]

    def __call__(self, values: Tensor, tile: Tile, columns: Sequence[Tensor], tiles: Tiles) -> None:
        down, across = [part[tile.rows, None] for part in self.rows], [part[tile.columns] for part in columns]
        for rows, band, spare in tiles.bands(values):
            if self.shifted:
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
        dtype = torch.promote_types(images.dtype, torch.float32)
        with full_precision(images.device):
            fused = fused_wins(images)
            s = scale.detach().to(dtype).view(())
            problem = _Problem(images.contiguous(), texts.contiguous(), s, exchange, image_weight, fused)
            tiles = _tiles(problem, tile_size)
            sums = problem.sums(tiles)
            ctx.problem, ctx.sums, ctx.tiles, ctx.shape = problem, sums, tiles, scale.shape
            # Exponentials are worth keeping only with one shift; logits of the two-pass form were overwritten.
            ctx.kept = tiles.matrix is not None and sums.shift is not None
            ctx.save_for_backward(images, texts, scale)
            return problem.loss(sums).to(dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        images, texts, scale = ctx.saved_tensors
        with full_precision(images.device):
            gradients = ctx.problem.gradients(ctx.sums, ctx.tiles, ctx.kept, upstream[0])
        ctx.kept = False  # the gradient was written over the exponentials: a second backward computes them anew
        image_gradient, text_gradient, scale_gradient = gradients
        return (
            image_gradient.to(images.dtype),
            text_gradient.to(texts.dtype),
            scale_gradient.to(scale.dtype).view(ctx.shape),
            *[None] * 3,
        )


def _tiles(problem: _Problem, tile_size: int | None) -> Tiles:
    rows, blocks = len(problem.images), problem.exchange.block_sizes()
    fits = rows * blocks[0] * problem.dtype.itemsize <= DENSE_BYTES
    dense = tile_size is None and len(blocks) == 1 and fits and not problem.fused
    like = problem.images.new_empty(0, dtype=problem.dtype)
    return Tiles(rows, like, tile_size or default_tile_size(like.device), kept=blocks[0] if dense else None)
