"""Tiles of the matrix of logits, which share one buffer.

A logits matrix of B rows and N columns is never held whole unless it is small: a tile is computed, used and overwritten.
Nothing of a result depends on the size of the tiles but the order of its sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = [
    "ACCELERATOR_TILE_SIZE",
    "DENSE_BYTES",
    "TILE_SIZE",
    "Tile",
    "Tiles",
    "add_product",
    "check_tile_size",
    "default_tile_size",
    "full_precision",
    "refuse_double_backward",
    "row_products",
    "wide",
]

# A logits matrix up to this size is kept from forward to backward, which saves one matrix product of four.
DENSE_BYTES = 256 * 2**20
# Rows and columns of a tile: smaller ones leave the matrix product's full speed, larger ones the processor's caches.
TILE_SIZE = 1024
# On an accelerator, where starting a small product takes longer than the product.
ACCELERATOR_TILE_SIZE = 4096
# Rows that are worked on at a time where an operation needs memory beside its operands.
BAND = 64


@dataclass(frozen=True)
class Tile:
    """Rows and columns of a tile, and where in it the pairs are.

    Attributes:
        rows: of this rank.
        columns: of the block that is visiting.
        diagonal: for `Tensor.diagonal`; None if the tile holds no pair.
    """

    rows: slice
    columns: slice
    diagonal: int | None

    def fill_pairs(self, values: Tensor, number: float) -> None:
        """Writes a number over the pairs of `values` (H, W), the tile."""
        if self.diagonal is not None:
            values.diagonal(self.diagonal).fill_(number)


class Tiles:
    """The tiles of a B x N matrix, and the memory in which one of them lives.

    Args:
        rows: B, of this rank.
        like: a tensor of the type and device the logits shall have.
        tile_size: rows and columns of a tile.
        kept: columns of a matrix to be kept whole, or None to overwrite each tile by the next.
    """

    def __init__(self, rows: int, like: Tensor, tile_size: int, kept: int | None = None) -> None:
        self.rows, self.tile_size = rows, tile_size
        self.matrix = None if kept is None else like.new_empty(rows, kept)
        self._buffers: dict[str, Tensor] = {}
        self._like = like

    def of(self, columns: int, diagonal: int | None) -> Iterator[Tile]:
        """The tiles of a block of `columns`; `diagonal` is the column of row 0's pair, None where there is none."""
        height, width = self.shape(columns)
        for left in range(0, columns, width):
            right = min(left + width, columns)
            for top in range(0, self.rows, height):
                bottom = min(top + height, self.rows)
                place = None if diagonal is None else diagonal + top - left
                holds = place is not None and -(bottom - top) < place < right - left
                yield Tile(slice(top, bottom), slice(left, right), place if holds else None)

    def shape(self, columns: int) -> tuple[int, int]:
        """Rows and columns of a tile of a block of `columns`; those at its edges may have fewer."""
        if self.matrix is None:
            return self.tile_size, self.tile_size
        # A kept matrix is worked through in bands of rows: each is still in the caches when it is summed.
        return max(1, self.tile_size**2 // max(1, columns)), columns

    def buffer(self, tile: Tile) -> Tensor:
        """Memory (H, W) for a tile; part of the kept matrix if there is one, otherwise overwritten by the next tile."""
        if self.matrix is not None:
            return self.matrix[tile.rows, tile.columns]
        return self._view("tile", tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start)

    def bands(self, values: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """The rows of a tile (H, W) in narrow bands: their place in it, a view of them, and memory of the same shape."""
        for top in range(0, len(values), BAND):
            band = values[top : top + BAND]
            yield slice(top, top + len(band)), band, self._view("band", *band.shape)

    def _view(self, name: str, height: int, width: int) -> Tensor:
        flat = self._buffers.get(name)
        if flat is None or flat.numel() < height * width:
            flat = self._buffers[name] = self._like.new_empty(height * width)
        return flat[: height * width].view(height, width)


def add_product(total: Tensor, values: Tensor, features: Tensor) -> None:
    """Adds the product of `values` (M, N) and `features` (N, D) to `total` (M, D), in whose type it is summed up."""
    total.addmm_(values.to(total.dtype), features.to(total.dtype))


def check_tile_size(tile_size: int | None) -> None:
    """Checks the size of a tile.

    Raises:
        InputError: not None and below 1.
    """
    if tile_size is not None and tile_size < 1:
        raise InputError(f"tile_size {tile_size} must be at least 1, or None to choose by size; 1024 is a good start")


def default_tile_size(device: torch.device) -> int:
    """Rows and columns of a tile where none are asked for."""
    return TILE_SIZE if device.type == "cpu" else ACCELERATOR_TILE_SIZE


def wide(device: torch.device) -> torch.dtype:
    """The type of sums and of the few numbers a row has: float64, but for devices that lack it."""
    return torch.float32 if device.type == "mps" else torch.float64


def row_products(left: Tensor, right: Tensor) -> Tensor:
    """The inner products of the rows of two (B, D) tensors, (B,) in wide precision, band by band to save memory."""
    high = wide(left.device)
    bands = zip(torch.split(left, BAND), torch.split(right, BAND), strict=True)
    return torch.cat([(one.to(high) * other.to(high)).sum(dim=1) for one, other in bands])


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Switches autocast off: it would round logits to half precision."""
    return torch.autocast(device.type, enabled=False)


def refuse_double_backward(name: str) -> None:
    """For the start of a hand-written backward.

    Raises:
        InputError: a graph of the backward was asked for, which would be silently incomplete.
    """
    if torch.is_grad_enabled():
        raise InputError(
            f"the {name} loss has no second derivative: call backward or torch.autograd.grad without create_graph=True"
        )
