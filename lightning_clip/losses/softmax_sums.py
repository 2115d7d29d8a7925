"""The forward half of the softmax loss in tiles: log-sums of rows and columns over all but their own pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lightning_clip.losses.exchange import Exchange
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

    @property
    def dtype(self) -> torch.dtype:
        """Of logits and gradients: at least float32."""
        return torch.promote_types(self.images.dtype, torch.float32)

    def multiply(self, texts: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """The logits s u v (H, W) of a tile."""
        return torch.mm(self.images[tile.rows].to(self.dtype) * self.scale, texts[tile.columns].to(self.dtype).t(), out=out)

    def exponentials(self, texts: Tensor, tile: Tile, out: Tensor, shift: Tensor) -> Tensor:
        """The values exp(z - shift) (H, W) of a tile, 0 at the pairs."""
        self.multiply(texts, tile, out)
        if out.device.type != "cpu" or shift > 0:  # only on the CPU is it free to ask
            out.sub_(shift)
        out.exp_()
        tile.fill_pairs(out, 0.0)
        return out

    def others(self, texts: Tensor, tile: Tile, out: Tensor) -> Tensor:
        """The logits (H, W) of a tile, minus infinity at the pairs."""
        self.multiply(texts, tile, out)
        tile.fill_pairs(out, -torch.inf)
        return out

    def sums(self, tiles: Tiles) -> Sums:
        """The log-sums of rows and columns, and the logits of the pairs."""
        pair = self.scale.to(wide(self.images.device)) * row_products(self.images, self.texts)
        rows, columns, shift = self.log_sums(tiles)
        return Sums(rows, columns, pair, shift)

    def log_sums(self, tiles: Tiles) -> tuple[Tensor, Tensor, Tensor | None]:
        """The logarithms r (B,) and c (B,), and the shift () that served all of them, or None."""
        bound = self.scale.abs() * self._longest().prod()
        shift = (bound - _HIGHEST).clamp(min=0)
        rows, columns = self._sum_exponentials(tiles, shift)
        if self._may_underflow(bound + shift) and self._underflown(rows, columns):
            return *self._sum_from_maxima(tiles), None
        return rows.log() + shift, columns.log() + shift, shift

    def _longest(self) -> Tensor:
        """The largest norms (2,) of an image and of a text of all ranks."""
        if self.exchange.longest is not None:
            return self.images.new_tensor(self.exchange.longest, dtype=self.dtype)
        own = [features.norm(dim=1, dtype=self.dtype).amax() for features in (self.images, self.texts)]
        return self.exchange.maximum(torch.stack(own))

    def _may_underflow(self, depth: Tensor) -> bool:
        """Whether ranks must ask each other if sums were lost: not where every row has another, of at least e^-depth.

        Args:
            depth: () how far below 0 an exponent may be, the same on all ranks.
        """
        least = min(self.exchange.total, self.exchange.total_rows)
        if max(self.exchange.total, self.exchange.total_rows) == 1:
            return False
        return least == 1 or not bool(0.5 * (-depth).exp() >= self._lowest())

    def _lowest(self) -> float:
        """Sums below it may have lost what matters."""
        limits = torch.finfo(self.dtype)
        return max(self.exchange.total, self.exchange.total_rows) * limits.tiny / limits.eps

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

        start = torch.zeros(len(self.texts), dtype=high, device=rows.device)
        (columns,) = self.exchange.visit([self.texts], [start], body)
        return rows, columns

    def _tile_sums(self, texts: Tensor, tile: Tile, tiles: Tiles, shift: Tensor) -> tuple[Tensor, Tensor]:
        values = self.exponentials(texts, tile, tiles.buffer(tile), shift)
        return values.sum(dim=1), values.sum(dim=0)

    def _underflown(self, rows: Tensor, columns: Tensor) -> bool:
        """Whether, on any rank, the values lost below float32's smallest could matter to a sum."""
        lost = (rows < self._lowest()).any() | (columns < self._lowest()).any()
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

        lowest = self.texts.new_full((len(self.texts),), -torch.inf, dtype=self.dtype)
        (column_maximum,) = self.exchange.visit([self.texts], [lowest], maxima, maximum=True)
        # Where there is no other, the sum is of nothing: a finite maximum keeps it 0.
        for maximum in (row_maximum, column_maximum):
            maximum.clamp_(min=torch.finfo(self.dtype).min)
        rows = torch.zeros(len(self.images), dtype=high, device=self.images.device)

        def sums(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            texts, maximum = carried
            for tile in tiles.of(len(texts), diagonal):
                values = self.others(texts, tile, tiles.buffer(tile))
                rows[tile.rows] += (values - row_maximum[tile.rows, None]).exp_().sum(dim=1)
                added[0][tile.columns] += values.sub_(maximum[tile.columns]).exp_().sum(dim=0)

        start = torch.zeros(len(self.texts), dtype=high, device=rows.device)
        (columns,) = self.exchange.visit([self.texts, column_maximum], [start], sums)
        return rows.log() + row_maximum, columns.log() + column_maximum

    def loss(self, sums: Sums) -> Tensor:
        """The loss () of this rank; its mean over ranks is that of the concatenated batch."""
        to_text, to_image = softplus(sums.row_log - sums.pair), softplus(sums.column_log - sums.pair)
        total = self.image_weight * to_text.sum() + (1 - self.image_weight) * to_image.sum()
        return total * (self.exchange.world_size / self.exchange.total)
