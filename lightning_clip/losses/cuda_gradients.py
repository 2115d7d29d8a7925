"""From slopes (the gradient of a loss by its logits) to gradients of features on CUDA, chunk of rows by chunk of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.losses.cuda_factors import EXACT_DEPTH, Factors, factors_of, gain_of, scaled
from lightning_clip.losses.exchange import Exchange

__all__ = ["Chunk", "Columns", "Gradients", "Slopes", "chunks_of"]

# Rows whose slopes are held at a time, which fill a large device with either of the products, and the bytes they may take.
ROWS, SLOPE_BYTES = 4096, 2**30


class Chunk(NamedTuple):
    """Rows `top`... of this rank's."""

    top: int
    rows: int


class Columns(NamedTuple):
    """The texts of all ranks.

    Attributes:
        factors: (N, D) of them.
        exchange: how ranks meet.
    """

    factors: Factors
    exchange: Exchange

    @classmethod
    def of(cls, texts: Tensor, dtype: torch.dtype, planes: int, exchange: Exchange) -> Columns:
        """Brings the ranks' texts (B, D) together; they travel in the type in which they are multiplied."""
        if exchange.world_size > 1:
            texts = exchange.all_rows(texts.to(dtype) if planes == 1 else texts)
        return cls(factors_of(texts, dtype, planes), exchange)

    @property
    def share(self) -> float:
        """Weight of a term of this rank's loss."""
        return self.exchange.world_size / self.exchange.total

    def home(self, pushed: Tensor, factor: Tensor, texts: Tensor) -> Tensor:
        """The gradient of this rank's texts (B, D): what all ranks' rows do to them, each rank's times its own factor."""
        if self.exchange.world_size == 1:
            return scaled(pushed, factor, texts)

        def body(carried: Sequence[Tensor], added: Sequence[Tensor], diagonal: int | None) -> None:
            torch.mul(pushed[:, : texts.shape[1]], factor, out=added[0])

        (own,) = self.exchange.visit([], [torch.zeros_like(texts, dtype=torch.float32)], body)
        return own.to(texts.dtype)


def chunks_of(images: Factors, columns: Factors) -> Iterator[Chunk]:
    """The rows of images in chunks, the first of which is the largest."""
    planes, count = len(columns.planes), columns.rows
    most = ROWS if planes == 1 else min(ROWS, EXACT_DEPTH)
    height = SLOPE_BYTES // (count * planes * columns.flat.itemsize)
    height = max(128, min(most, height // 128 * 128))
    return (Chunk(top, min(height, images.rows - top)) for top in range(0, images.rows, height))


class Slopes(NamedTuple):
    """A chunk's slopes, whose rows begin at multiples of 16 values: aligned for wide stores and tensor cores.

    Attributes:
        planes: P of (M, N), whose sum they are.
        row: values from a row to the next.
        plane: values from a plane to the next.
    """

    planes: Sequence[Tensor]
    row: int
    plane: int


class Gradients:
    """What features get: each chunk's slopes are written by the loss, then multiplied with the features of both sides.

    Args:
        images: of this rank.
        texts: the columns, or a block of them.
        pull: whether images want a gradient.
        push: whether texts do.

    Attributes:
        pulled: (B, D') float32, what images get, times the gain; None where none is wanted.
        pushed: (N, D') float32, likewise texts.
        gain: by what slopes are multiplied while they are held.
    """

    def __init__(self, images: Factors, texts: Factors, pull: bool, push: bool) -> None:
        self.images, self.texts, self.gain = images, texts, gain_of(texts.flat.dtype)
        like = texts.flat
        self.pulled = like.new_empty(images.rows, images.width, dtype=torch.float32) if pull else None
        self.pushed = like.new_empty(texts.rows, texts.width, dtype=torch.float32) if push else None
        self._goes_on = False

    def go_on(self) -> None:
        """What follows is of another block of texts, and is added to what images got."""
        self._goes_on = True

    def slopes(self) -> Iterator[tuple[Chunk, Slopes]]:
        """Chunks, and memory into which the loop's body writes a chunk's slopes times the gain."""
        planes, count = len(self.texts.planes), self.texts.rows
        row, memory = -(-count // 16) * 16, None
        for chunk in chunks_of(self.images, self.texts):
            top, rows = chunk
            if memory is None or memory.shape[1] != rows:
                memory = (self.texts.flat.new_empty(planes, rows, row) if memory is None else memory)[:, :rows, :count]
            slopes = [memory[index] for index in range(planes)]
            yield chunk, Slopes(slopes, row, memory.stride(0))
            whole = rows == self.images.rows
            if self.pulled is not None:  # (M, N) x (N, D') -> (M, D')
                self.texts.combine(slopes, 0, self.pulled if whole else self.pulled[top : top + rows], self._goes_on)
            if self.pushed is not None:  # (N, M) x (M, D') -> (N, D')
                self.images.combine([plane.t() for plane in slopes], top, self.pushed, add=top > 0)

    def factor(self, weight: Tensor, scale: Tensor) -> Tensor:
        """By what `pulled` and `pushed` become gradients, () float32: the loss' weight times the scale, without the gain."""
        factor = weight * scale.view(())
        return factor if self.gain == 1 else factor / self.gain
