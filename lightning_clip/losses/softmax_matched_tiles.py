"""The part of a softmax loss by ids that is made of log-sums, in tiles, with its gradient.

Matches that are singled out never enter a tile's sums, as the pairs of a square batch do not: each is computed alone in wide
precision, and its gradient is written into the tile before the products. A converged batch keeps its gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.matched_tiles import MatchedTile, MatchedTiles, Placed, entry_logits
from lightning_clip.losses.matches import Matches, Own
from lightning_clip.losses.softmax_sums import Operands
from lightning_clip.losses.softmax_tiles import LogitGradient, choose_tiles, tile_gradient
from lightning_clip.losses.tiling import Tile, Tiles, add_product, full_precision, refuse_double_backward, row_products, wide

__all__ = ["MatchedSoftmaxTiles"]


class _Side(NamedTuple):
    """One direction's rows on this rank, in wide precision.

    Attributes:
        log: log-sum over what is not singled out, (B,).
        pair: log-sum over what is, minus infinity where nothing is, (B,).
        target: weight of each singled-out match in the row's target, (B,).
        weight: of the row in the loss, (B,).
        hit: mean logit of the target, as far as it is singled out, (B,).
    """

    log: Tensor
    pair: Tensor
    target: Tensor
    weight: Tensor
    hit: Tensor

    @classmethod
    def of(cls, logits: Tensor, row: Tensor, log: Tensor, side: Own, weight: Tensor, share: float) -> _Side:
        """From the logits (E,) of singled-out matches and the rows (E,) they belong to."""
        # Rows whose matches are not all here get their target in a sum of features.
        target = share * side.whole.to(log.dtype) / side.matches.clamp(min=1)
        hit = torch.zeros_like(log).index_add(0, row, target[row] * logits)
        return cls(log, _log_sums(logits, row, len(log)), target, weight, hit)

    @property
    def total(self) -> Tensor:
        """The log-sum over all columns, (B,)."""
        return torch.where(self.pair > -torch.inf, self.pair + softplus(self.log - self.pair), self.log)

    def loss(self) -> Tensor:
        """The weighted sum ()."""
        loss = softplus(self.log - self.pair) + (self.pair - self.hit)
        return (self.weight * loss.where(self.pair > -torch.inf, 0.0)).sum()

    def facts(self, upstream: Tensor) -> Tensor:
        """What `_entry_gradient` asks of each row, (B, 4)."""
        return torch.stack([self.weight * upstream, self.pair, self.target, (self.log - self.pair).sigmoid()], dim=1)


def _log_sums(logits: Tensor, row: Tensor, rows: int) -> Tensor:
    """The log-sum (rows,) of the logits (E,) of each row."""
    top = logits.new_full((rows,), -torch.inf).scatter_reduce(0, row, logits, "amax")
    sums = torch.zeros_like(top).index_add(0, row, (logits - top[row]).exp())
    return (sums.log() + top).where(sums > 0, -torch.inf)


def _entry_gradient(logits: Tensor, facts: Tensor) -> Tensor:
    """One direction's gradient by the logits (P,) of singled-out matches, from the facts (P, 4) of their rows."""
    weight, pair, target, outside = facts.unbind(dim=1)
    among = (logits - pair).exp()  # its share among the singled-out, 1 where it is alone: then nothing is left to round
    return weight * ((among - target) - among * outside)


@dataclass(frozen=True)
class _Operands(Operands):
    """As `Operands`, for a `Placed` exchange; what is singled out fills `logits` (E,) while sums are made."""

    logits: Tensor

    def _tile_sums(self, texts: Tensor, tile: Tile, tiles: Tiles, shift: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(tile, MatchedTile)
        self.logits[tile.entries] = entry_logits(self.images, texts, self.scale, tile)
        return super()._tile_sums(texts, tile, tiles, shift)

    def _may_underflow(self, depth: Tensor) -> bool:
        return True  # a row all of whose columns match has no others

    def gradients(
        self, rows: _Side, columns: _Side, shift: Tensor | None, tiles: Tiles, kept: bool, upstream: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the images (N, D), texts (M, D) and scale () of this rank, `upstream` being the gradient of its loss."""
        upstream = upstream.to(rows.log.dtype)
        weights = (rows.weight * upstream, columns.weight * upstream)
        fill = LogitGradient(shift, (rows.total, columns.total), weights, self.dtype)
        row_facts = rows.facts(upstream)
        pulled = torch.zeros_like(self.images, dtype=self.dtype)

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], place: int | None) -> None:
            texts, facts, *others = carried
            for tile in tiles.of(len(texts), place):
                assert isinstance(tile, MatchedTile)
                values = tile_gradient(self, fill, texts, others, tile, tiles, kept)  # (rows, columns)
                logits = self.logits[tile.entries]
                own, other = row_facts[tile.rows][tile.row], facts[tile.columns][tile.column]  # (P, 4)
                tile.put(values, _entry_gradient(logits, own) + _entry_gradient(logits, other))
                add_product(pulled[tile.rows], values, texts[tile.columns])
                add_product(added[0][tile.columns], values.t(), self.images[tile.rows])

        start = torch.zeros_like(self.texts, dtype=self.dtype)
        (pushed,) = self.exchange.visit([self.texts, columns.facts(upstream), *fill.columns], [start], body)
        scale_gradient = row_products(pulled, self.images).sum()
        return pulled.mul_(self.scale), pushed.mul_(self.scale), scale_gradient


class MatchedSoftmaxTiles(torch.autograd.Function):
    """The loss () as far as it is made of log-sums and of matches that are singled out.

    It takes features (N, D) and (M, D), a scale (1,), an `Exchange`, `Matches`, the weights (N,) and (M,) of images and texts
    in the loss, the share of the target that smoothing leaves to the matches, and a tile size (None: by size).
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        exchange: Exchange,
        matches: Matches,
        weights: tuple[Tensor, Tensor],
        share: float,
        tile_size: int | None,
    ) -> Tensor:
        """Features (N, D) of images and (M, D) of texts, and scale (1,) -> loss ()."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        logits = images.new_empty(len(matches.row), dtype=wide(images.device))
        s = scale.detach().to(dtype).view(())
        operands = _Operands(images.contiguous(), texts.contiguous(), s, Placed(exchange), 0.5, logits)
        tiles = choose_tiles(operands, tile_size, partial(MatchedTiles, matches.row, matches.column))
        row_log, column_log, shift = operands.log_sums(tiles)
        every = exchange.over(matches.sizes).all_rows(logits)  # of all ranks
        rows = _Side.of(logits, matches.row, row_log, matches.images, weights[0], share)
        columns = _Side.of(every[matches.own], matches.own_column, column_log, matches.texts, weights[1], share)
        ctx.operands, ctx.sides, ctx.shift, ctx.tiles, ctx.shape = operands, (rows, columns), shift, tiles, scale.shape
        ctx.kept = tiles.matrix is not None and shift is not None
        ctx.save_for_backward(images, texts, scale)
        return (rows.loss() + columns.loss()).to(dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("softmax")
        images, texts, scale = ctx.saved_tensors
        with full_precision(images.device):
            found = ctx.operands.gradients(*ctx.sides, ctx.shift, ctx.tiles, ctx.kept, upstream[0])
        ctx.operands.exchange.forget()
        ctx.kept = False  # the gradient was written over the exponentials: a second backward computes them again
        image_gradient, text_gradient, scale_gradient = found
        return (
            image_gradient.to(images.dtype),
            text_gradient.to(texts.dtype),
            scale_gradient.to(scale.dtype).view(ctx.shape),
            *[None] * 5,
        )
