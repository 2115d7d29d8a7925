"""Tiles of a matrix of logits whose matches stand anywhere instead of on a diagonal; singled-out ones are known by place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_clip.losses.exchange import Body, Exchange
from lightning_clip.losses.tiling import Tile, Tiles, row_products, wide

__all__ = ["MatchedTile", "MatchedTiles", "Placed", "entry_logits"]


@dataclass(frozen=True)
class MatchedTile(Tile):
    """A tile and the matches in it.

    Attributes:
        entries: int64 (P,), which of this rank's singled-out matches they are.
        row: int64 (P,), their rows in the tile.
        column: int64 (P,), their columns in the tile.
    """

    entries: Tensor
    row: Tensor
    column: Tensor

    def fill_pairs(self, values: Tensor, number: float) -> None:
        if len(self.entries):
            values[self.row, self.column] = number

    def put(self, values: Tensor, numbers: Tensor) -> None:
        """Writes numbers (P,) over the matches of `values` (H, W), the tile."""
        if len(self.entries):
            values[self.row, self.column] = numbers.to(values.dtype)


class MatchedTiles(Tiles):
    """As `Tiles`, with singled-out matches instead of a diagonal of pairs.

    Args:
        row: int64 (E,), this rank's row of each match.
        column: int64 (E,), its column among those of all ranks.
        rows: of this rank.
        like: a tensor of any shape, of the type and device the logits shall have.
        tile_size: rows and columns of a tile.
        kept: columns of a matrix to be kept whole, or None.
    """

    def __init__(self, row: Tensor, column: Tensor, rows: int, like: Tensor, tile_size: int, kept: int | None = None) -> None:
        super().__init__(rows, like, tile_size, kept)
        self._row, self._column = row, column
        self._sorted: dict[tuple[int, int], tuple[Tensor, list[int]]] = {}

    def of(self, columns: int, diagonal: int | None) -> Iterator[MatchedTile]:
        """The tiles of a block of `columns`; `diagonal` is the place of its first among the columns of all ranks."""
        assert diagonal is not None
        if (columns, diagonal) not in self._sorted:  # once for all passes: the counts wait for the device
            self._sorted[columns, diagonal] = self._sort(columns, diagonal)
        order, ends = self._sorted[columns, diagonal]
        for number, tile in enumerate(super().of(columns, None)):
            entries = order[ends[number] : ends[number + 1]]
            row, column = self._row[entries] - tile.rows.start, self._column[entries] - diagonal - tile.columns.start
            yield MatchedTile(tile.rows, tile.columns, None, entries, row, column)

    def _sort(self, columns: int, place: int) -> tuple[Tensor, list[int]]:
        """The matches (E,) in the order of the tiles they are in, and where those of each tile begin."""
        height, width = self.shape(columns)
        down, across = -(-self.rows // height), -(-columns // width)
        column = self._column - place
        inside = (column >= 0) & (column < columns)
        tile = ((column // width) * down + self._row // height).where(inside, down * across)
        counts = torch.bincount(tile, minlength=down * across + 1).tolist()
        ends = [0]
        for count in counts:
            ends.append(ends[-1] + count)
        return torch.argsort(tile, stable=True), ends


class Placed(Exchange):
    """An exchange whose bodies are told where among all columns a block begins, in the place of the diagonal.

    Args:
        inner: what exchanges.
    """

    def __init__(self, inner: Exchange) -> None:
        super().__init__(inner.sizes, inner.rank, inner.row_sizes, inner.longest)
        self._inner = inner

    def over(self, sizes: Sequence[int]) -> Exchange:
        return self._inner.over(sizes)

    def block_sizes(self) -> list[int]:
        return self._inner.block_sizes()

    def block_offsets(self) -> list[int]:
        return self._inner.block_offsets()

    def visit(self, carried: Sequence[Tensor], added: Sequence[Tensor], body: Body, maximum: bool = False) -> list[Tensor]:
        places = iter(self.block_offsets())
        return self._inner.visit(carried, added, lambda block, sums, _: body(block, sums, next(places)), maximum)

    def forget(self) -> None:
        self._inner.forget()

    def maximum(self, value: Tensor) -> Tensor:
        return self._inner.maximum(value)

    def total_of(self, value: Tensor) -> Tensor:
        return self._inner.total_of(value)

    def all_rows(self, value: Tensor) -> Tensor:
        return self._inner.all_rows(value)


def entry_logits(images: Tensor, texts: Tensor, scale: Tensor, tile: MatchedTile) -> Tensor:
    """The logits s u v (P,) of a tile's matches in wide precision.

    Args:
        images: (B, D) of this rank.
        texts: (M, D), the block of columns that is visiting.
        scale: s ().
        tile: which of them match.
    """
    high = wide(images.device)
    if not len(tile.entries):
        return images.new_empty(0, dtype=high)
    return scale.to(high) * row_products(images[tile.rows.start + tile.row], texts[tile.columns.start + tile.column])
