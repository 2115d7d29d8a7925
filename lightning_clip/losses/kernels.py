"""The Triton kernels behind `lightning_clip.losses.fused`; imported only where Triton is."""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["gradient", "sigmoid", "sums"]


@triton.jit
def _products(images, texts, row, column, M, N, D, DEPTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The inner products of a program's rows and columns, summed in float32."""
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, D, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        inside = (row[:, None] < M) & (depth[None, :] < D)
        left = tl.load(images + row[:, None] * D + depth[None, :], mask=inside, other=0.0)
        inside = (column[None, :] < N) & (depth[:, None] < D)
        right = tl.load(texts + column[None, :] * D + depth[:, None], mask=inside, other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    return total


@triton.jit
def _place(ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows and columns of a program."""
    return tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)


@triton.jit
def sums(
    images, texts, scale, shift, down, across, M, N, D, diagonal,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A program's part of the sums of exponentials: `down` (programs across, M), `across` (programs down, N)."""
    row, column = _place(ROWS, COLUMNS)
    logits = _products(images, texts, row, column, M, N, D, DEPTH, ROWS, COLUMNS) * tl.load(scale) - tl.load(shift)
    other = (row[:, None] < M) & (column[None, :] < N) & (column[None, :] - row[:, None] != diagonal)
    values = tl.where(other, tl.exp(logits), 0.0)
    tl.store(down + tl.program_id(1) * M + row, tl.sum(values, axis=1), mask=row < M)
    tl.store(across + tl.program_id(0) * N + column, tl.sum(values, axis=0), mask=column < N)


@triton.jit
def gradient(
    images, texts, scale, shift, rows, columns, out, M, N, D, diagonal,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The gradient of a softmax loss by the logits of a program's tile."""
    row, column = _place(ROWS, COLUMNS)
    logits = _products(images, texts, row, column, M, N, D, DEPTH, ROWS, COLUMNS) * tl.load(scale) - tl.load(shift)
    down = tl.load(rows + row, mask=row < M, other=0.0)
    across = tl.load(columns + column, mask=column < N, other=0.0)
    values = tl.exp(logits) * (down[:, None] + across[None, :])
    values = tl.where(column[None, :] - row[:, None] != diagonal, values, 0.0)
    inside = (row[:, None] < M) & (column[None, :] < N)
    tl.store(out + row[:, None].to(tl.int64) * N + column[None, :], values.to(out.dtype.element_ty), mask=inside)


@triton.jit
def sigmoid(
    images, texts, scale, bias, out, losses, sums, M, N, D, diagonal,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """A program's part of the sigmoid loss, of the sum of its gradient, and the gradient by the logits."""
    row, column = _place(ROWS, COLUMNS)
    logits = _products(images, texts, row, column, M, N, D, DEPTH, ROWS, COLUMNS) * tl.load(scale) + tl.load(bias)
    inside = (row[:, None] < M) & (column[None, :] < N)
    other = inside & (column[None, :] - row[:, None] != diagonal)
    # e^-|z| never overflows; log(1 + y) by y / ((1 + y) - 1) log(1 + y) keeps the digits of a small y.
    small = tl.exp(-tl.abs(logits))
    whole = 1.0 + small
    logarithm = tl.where(whole == 1.0, small, tl.log(whole) * small / (whole - 1.0 + (whole == 1.0)))
    values = tl.where(other, tl.where(logits > 0, 1.0, small) / whole, 0.0)
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(losses + place, tl.sum(tl.sum(tl.where(other, tl.maximum(logits, 0.0) + logarithm, 0.0), axis=1), axis=0))
    tl.store(sums + place, tl.sum(tl.sum(values, axis=1), axis=0))
    tl.store(out + row[:, None].to(tl.int64) * N + column[None, :], values.to(out.dtype.element_ty), mask=inside)
