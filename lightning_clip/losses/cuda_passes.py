"""Launches of the Triton kernels: tensors arrive, grids and strides are worked out, nothing waits for the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = ["Block", "Parts", "finish_softmax", "fill_sigmoid", "fill_softmax", "log_sum_parts", "merge", "sum_tile"]

# Rows and columns of one program's tile, and its warps: of the passes that write a gradient, and of the one that sums up.
FILL, SUM = (16, 256, 4), (64, 128, 4)
# Partial sums (down) and places (across) of a program that merges.
MERGE = (64, 32)
FINISH = 1024


class Block:
    """A block of inner products (M, N) in float32, rows of images against columns of texts.

    Args:
        products: (M, N), the last axis contiguous.
        diagonal: the column of row 0's pair, which may lie outside the block.
    """

    def __init__(self, products: Tensor, diagonal: int) -> None:
        self.products, self.diagonal = products, diagonal

    def grid(self, tile: tuple[int, int, int]) -> tuple[int, int]:
        """Programs down and across."""
        return -(-self.products.shape[0] // tile[0]), -(-self.products.shape[1] // tile[1])


class Parts:
    """Sums that grow from block to block: each program adds to its own place, so that the order never changes.

    Args:
        count: how many sums are kept.
        block: the first block, which none after it exceeds.
    """

    def __init__(self, count: int, block: Block) -> None:
        self.values = block.products.new_empty(count, math.prod(block.grid(FILL)))
        self.first = True

    def totals(self) -> Tensor:
        """The sums (count,)."""
        return self.values.sum(dim=1)


def fill_sigmoid(block: Block, gradient: Tensor | None, parts: Parts, scale: Tensor, bias: Tensor, gain: float) -> None:
    """Adds the block's loss, gradient by the logits, and gradient x product to `parts` (3); writes the gradient if asked.

    Args:
        block: the inner products.
        gradient: (P, M, N), written as a sum of P planes of its type, times `gain`; None writes nothing.
        parts: of three sums.
        scale: float32, one element.
        bias: float32, one element.
        gain: by what the gradient is multiplied.
    """
    products = block.products
    out = products[None] if gradient is None else gradient
    _kernels().sigmoid_pass[block.grid(FILL)](
        products, out, parts.values, scale, bias, *products.shape, block.diagonal, products.stride(0), out.stride(1),
        out.stride(0), parts.values.stride(0), gain, STORE=gradient is not None, FIRST=parts.first, PLANES=len(out),
        **_sizes(FILL),
    )  # fmt: skip
    parts.first = False


def fill_softmax(
    block: Block, gradient: Tensor, parts: Parts, scale: Tensor, rows: Tensor, columns: Tensor, own: Tensor, gain: float
) -> None:
    """Writes the gradient by the logits times `gain`, and adds gradient x product to `parts` (1).

    Args:
        block: the inner products.
        gradient: (P, M, N), written as a sum of P planes of its type.
        parts: of one sum.
        scale: float32, one element.
        rows: (M,) float32, log2 of each row's whole sum, less log2 of the rows' weight.
        columns: (N,) float32, likewise.
        own: (M,) float32, what each pair gains.
        gain: by what the gradient is multiplied.
    """
    products = block.products
    _kernels().softmax_gradient[block.grid(FILL)](
        products, gradient, parts.values, scale, rows, columns, own, *products.shape, block.diagonal, products.stride(0),
        gradient.stride(1), gradient.stride(0), gain, FIRST=parts.first, PLANES=len(gradient), **_sizes(FILL),
    )  # fmt: skip
    parts.first = False


def log_sum_parts(rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for the log-sums of tiles of a matrix (rows, columns): (tiles across, rows), (tiles down, columns)."""
    return like.new_empty(-(-columns // SUM[1]), rows), like.new_empty(-(-rows // SUM[0]), columns)


def sum_tile(block: Block, scale: Tensor, down: Tensor, across: Tensor, pairs: Tensor, left: int) -> None:
    """Writes the log-sums of a block's tiles, without its pairs, and the pairs' inner products.

    Args:
        block: the inner products; but for the last one, blocks begin at multiples of a tile.
        scale: float32, one element.
        down: (tiles across, M) of all blocks of these rows.
        across: (tiles down, N) likewise.
        pairs: (M,), written where a row's pair is in the block.
        left: the block's first column.
    """
    products = block.products
    _kernels().softmax_sums[block.grid(SUM)](
        products, scale, down[left // SUM[1] :], across[:, left:], pairs, *products.shape, block.diagonal, products.stride(0),
        down.stride(0), across.stride(0), **_sizes(SUM),
    )  # fmt: skip


def merge(parts: Tensor, running: Tensor, first: bool) -> None:
    """Merges log-sums (K, L) into `running` (L,), which counts for nothing the `first` time."""
    _kernels().merge_logs[(-(-len(running) // MERGE[1]),)](
        parts, running, *parts.shape, parts.stride(0), FIRST=first, DEPTH=MERGE[0], WIDTH=MERGE[1]
    )


def finish_softmax(rows: Tensor, columns: Tensor, pairs: Tensor, scale: Tensor, image_weight: float) -> tuple[Tensor, Tensor]:
    """The summed loss () and what each pair gains (N,); `rows` and `columns` become what `fill_softmax` takes.

    Args:
        rows: (N,) float32, log2 of the sum over the others of each row.
        columns: (N,) float32, likewise.
        pairs: (N,) float32, the pairs' inner products.
        scale: float32, one element.
        image_weight: weight of the rows, the columns have the rest.
    """
    own, parts = torch.empty_like(pairs), pairs.new_empty(-(-len(pairs) // FINISH))
    weights = image_weight, 1 - image_weight
    minus_logs = [-math.log2(weight) if weight > 0 else math.inf for weight in weights]
    _kernels().softmax_finish[(len(parts),)](
        rows, columns, pairs, own, parts, scale, len(pairs), *weights, *minus_logs, WIDTH=FINISH
    )
    return parts.sum(), own


def _sizes(tile: tuple[int, int, int]) -> dict[str, int]:
    return {"ROWS": tile[0], "COLUMNS": tile[1], "num_warps": tile[2]}


def _kernels() -> Any:
    from lightning_clip.losses import cuda_kernels  # here: Triton is absent where CUDA is

    return cuda_kernels
