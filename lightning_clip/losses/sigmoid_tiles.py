r"""The pairwise sigmoid loss in tiles, with its gradient: exact, and each tile is computed once where one process runs.

With logits :math:`z_{ij} = s\,u_i v_j + b` the loss is

.. math:: L = \frac{1}{N} \sum_i \operatorname{softplus}(-z_{ii}) + \frac{1}{N} \sum_{i \ne j} \operatorname{softplus}(z_{ij})

and its gradient by a logit needs nothing but that logit: a tile gives its share of loss and gradients at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.tiling import (
    Tile,
    Tiles,
    add_product,
    default_tile_size,
    full_precision,
    refuse_double_backward,
    row_products,
    wide,
)

__all__ = ["Gradients", "Problem", "SigmoidTiles"]


class Gradients(NamedTuple):
    """Of images (B, D), texts (B, D), scale () and bias ()."""

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Problem:
    """The operands, features in their own type, which travels, and how columns come by."""

    images: Tensor
    texts: Tensor
    scale: Tensor
    bias: Tensor
    exchange: Exchange

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and gradients: at least float32."""
        return torch.promote_types(self.images.dtype, torch.float32)

    @property
    def share(self) -> float:
        """Weight of a term of this rank's loss."""
        return self.exchange.world_size / self.exchange.total_rows

    def pair_logits(self) -> Tensor:
        """z_ii (B,) in wide precision."""
        high = wide(self.images.device)
        return self.scale.to(high) * row_products(self.images, self.texts) + self.bias.to(high)

    def loss(self, tiles: Tiles) -> Tensor:
        """The loss () of this rank, without gradients."""
        total = softplus(-self.pair_logits()).sum()

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            for tile in tiles.of(len(carried[0]), diagonal):
                total.add_(self.tile_loss(carried[0], tile, tiles))

        self.exchange.visit([self.texts], [], body)
        return total * self.share

    def loss_and_gradients(self, tiles: Tiles, upstream: Tensor | None = None) -> tuple[Tensor, Gradients]:
        """The loss () of this rank; texts collect the gradients of all ranks, each times its own `upstream` () or 1."""
        high, pair = wide(self.images.device), self.pair_logits()
        total = softplus(-pair).sum()
        pulled, bias = torch.zeros_like(self.images, dtype=self.dtype), torch.zeros_like(total)
        weight = torch.ones_like(self.scale) if upstream is None else upstream.to(self.scale.dtype)
        rows = self.images if upstream is None else self.images.to(self.dtype) * weight

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            (texts,), (pushed,) = carried, added
            for tile in tiles.of(len(texts), diagonal):
                loss, values_sum, values = self.tile_gradient(texts, tile, tiles)
                total.add_(loss)
                bias.add_(values_sum)
                add_product(pulled[tile.rows], values, texts[tile.columns])
                add_product(pushed[tile.columns], values.t(), rows[tile.rows])

        (pushed,) = self.exchange.visit([self.texts], [torch.zeros_like(self.texts, dtype=self.dtype)], body)
        self.add_pairs(pair, pulled, pushed, bias, rows)
        share = (weight * self.share).to(high)
        scale = row_products(pulled, self.images).sum() * share
        pulled.mul_(self.scale * weight * self.share)
        pushed.mul_(self.scale * self.share)
        return total * self.share, Gradients(pulled, pushed, scale, bias * share)

    def add_pairs(self, pair: Tensor, pulled: Tensor, pushed: Tensor, bias: Tensor, rows: Tensor) -> None:
        """Adds the pairs' gradients to those of images and texts (B, D) and of the bias ().

        Args:
            pair: their logits (B,).
            pulled: changed in place.
            pushed: changed in place.
            bias: changed in place.
            rows: the images times the gradient of the loss, (B, D).
        """
        own = (-pair).sigmoid()
        bias.sub_(own.sum())
        own = own.to(self.dtype)[:, None]
        pulled.addcmul_(own, self.texts.to(self.dtype), value=-1)
        pushed.addcmul_(own, rows.to(self.dtype), value=-1)

    def tile_loss(self, texts: Tensor, tile: Tile, tiles: Tiles) -> Tensor:
        """Loss () of a tile, the texts (N', D) being those of the block that is visiting."""
        return _softplus(self.logits(texts, tile, tiles), tiles)

    def tile_gradient(self, texts: Tensor, tile: Tile, tiles: Tiles) -> tuple[Tensor, Tensor, Tensor]:
        """Loss () of a tile, and its gradient by the logits, summed () and as it is (H, W)."""
        values = self.logits(texts, tile, tiles)
        loss = _softplus(values, tiles)
        values.sigmoid_()
        return loss, values.sum(), values

    def logits(self, texts: Tensor, tile: Tile, tiles: Tiles) -> Tensor:
        """The logits z (H, W) of a tile, minus infinity at the pairs."""
        out = tiles.buffer(tile)
        torch.mm(self.images[tile.rows].to(self.dtype) * self.scale, texts[tile.columns].to(self.dtype).t(), out=out)
        out.add_(self.bias)
        tile.fill_pairs(out, -torch.inf)
        return out


def _softplus(values: Tensor, tiles: Tiles) -> Tensor:
    """The sum of log(1 + e^z) over a tile."""
    sums = [torch.ops.aten.softplus.out(band, 1, 40, out=spare).sum() for _, band, spare in tiles.bands(values)]
    return torch.stack(sums).sum()


class SigmoidTiles(torch.autograd.Function):
    """The loss () of features (B, D), scale (1,), bias (1,), an `Exchange` and a tile size (None: by size).

    `kind` and `make` are called like `Problem` and `Tiles`, where matches are not on the diagonal.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        exchange: Exchange,
        tile_size: int | None,
        kind: type[Problem] = Problem,
        make: Callable[..., Tiles] = Tiles,
    ) -> Tensor:
        """Features (B, D) of both towers, scale (1,) and bias (1,) -> loss ()."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        with full_precision(images.device):
            s, b = (value.detach().to(dtype).view(()) for value in (scale, bias))
            problem = kind(images.contiguous(), texts.contiguous(), s, b, exchange)
            like = images.new_empty(0, dtype=dtype)
            tiles = make(len(images), like, tile_size or default_tile_size(images.device))
            ctx.problem, ctx.tiles, ctx.gradients = problem, tiles, None
            ctx.save_for_backward(images, texts, scale, bias)
            if any(ctx.needs_input_grad) and exchange.world_size == 1:
                loss, ctx.gradients = problem.loss_and_gradients(tiles)
            else:  # texts of other ranks want gradients weighted by the upstream gradient, known in backward
                loss = problem.loss(tiles)
            return loss.to(dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        refuse_double_backward("sigmoid")
        images, texts, scale, bias = ctx.saved_tensors
        with full_precision(images.device):
            if ctx.gradients is None:
                gradients = ctx.problem.loss_and_gradients(ctx.tiles, upstream[0])[1]
                ctx.problem.exchange.forget()
            else:
                gradients = Gradients(*(value * upstream[0] for value in ctx.gradients))
        image_gradient, text_gradient, scale_gradient, bias_gradient = gradients
        return (
            image_gradient.to(images.dtype),
            text_gradient.to(texts.dtype),
            scale_gradient.to(scale.dtype).view(scale.shape),
            bias_gradient.to(bias.dtype).view(bias.shape),
            *[None] * (len(ctx.needs_input_grad) - 4),
        )
