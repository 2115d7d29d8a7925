"""The forward half of the softmax loss in tiles: features arrive, the log-sums of rows and columns over the others leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
from lightning_clip.losses.fused import exponential_sums
from lightning_clip.losses.tiling import Tile, Tiles, row_products, wide

__all__ = ["Operands", "Sums"]

# Unit features bound the logits by the scale. Shifted so that the bound becomes 60, e^60 times any number of columns is
# far from overflow in float32, and most logits below the bound far from underflow.
_HIGHEST = 60.0


class Sums(NamedTuple):
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
class Operands:
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

    def sums(self, tiles: Tiles) -> Sums:
        high = wide(self.images.device)
        pair = self.scale.to(high) * row_products(self.images, self.texts)
        longest = torch.stack([features.norm(dim=1, dtype=self.dtype).amax() for features in (self.images, self.texts)])
        bound = self.scale.abs() * self.exchange.maximum(longest).prod()
        shift = (bound - _HIGHEST).clamp(min=0)
        rows, columns = self._sum_exponentials(tiles, shift)
        found = Sums(rows.log() + shift, columns.log() + shift, pair, shift)
        if self.exchange.total > 1 and self._underflown(rows, columns):
            return Sums(*self._sum_from_maxima(tiles), pair, None)
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

    def loss(self, sums: Sums) -> Tensor:
        """Of this rank; its mean over ranks is the loss of the concatenated batch."""
        to_text, to_image = softplus(sums.row_log - sums.pair), softplus(sums.column_log - sums.pair)
        total = self.image_weight * to_text.sum() + (1 - self.image_weight) * to_image.sum()
        return total * (self.exchange.world_size / self.exchange.total)
