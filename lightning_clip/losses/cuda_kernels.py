"""The Triton kernels behind the losses on CUDA: one elementwise pass over a block of inner products; imported only where Triton is.

Each program holds a tile of `ROWS` x `COLUMNS`. Exponentials and logarithms are to base 2, as the device computes them.
"""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["merge_logs", "sigmoid_pass", "softmax_finish", "softmax_gradient", "softmax_sums"]

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _log1p(small):
    """The logarithm of 1 + small for small in [0, 1], to float32's precision relative to the result (a fit of degree 9)."""
    fit = 0.019851444 - 0.0032440212 * small
    fit = fit * small - 0.0569595
    fit = fit * small + 0.106036514
    fit = fit * small - 0.1530559
    fit = fit * small + 0.19675939
    fit = fit * small - 0.24954134
    fit = fit * small + 0.33329964
    fit = fit * small - 0.49999902
    return small * (fit * small + 1.0)


@triton.jit
def _tile(M, N, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The rows and columns of a program, rows as int64 (a row times a stride may pass 2^31), and which of them exist."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    return row, column, (row[:, None] < M) & (column[None, :] < N)


@triton.jit
def _add_part(parts, index, value, FIRST: tl.constexpr):
    """Adds a program's `value` to its own place in row `index` of `parts`, or puts it there: no program shares a place."""
    place = parts + index + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    if not FIRST:
        value += tl.load(place)
    tl.store(place, value)


@triton.jit
def _store_planes(gradient, place, inside, value, plane, PLANES: tl.constexpr):
    """Stores a value as a sum of `PLANES` values of the gradient's type, each what the ones before leave."""
    for index in tl.static_range(PLANES):
        part = value.to(gradient.dtype.element_ty)
        tl.store(gradient + index * plane + place, part, mask=inside)
        value -= part.to(tl.float32)


@triton.jit
def sigmoid_pass(
    products, gradient, parts, scale, bias, M, N, diagonal, stride, out_stride, plane, parts_stride, gain,
    STORE: tl.constexpr, FIRST: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of the sigmoid loss, of its gradient by the logits and of gradient x product, and the gradient times `gain`."""
    row, column, inside = _tile(M, N, ROWS, COLUMNS)
    raw = tl.load(products + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
    logits = raw * tl.load(scale) + tl.load(bias)
    pair = column[None, :] - row[:, None] == diagonal
    # A pair's loss is log(1 + e^-z), every other's log(1 + e^z): mirrored, one formula serves both.
    mirrored = tl.where(pair, -logits, logits)
    small = tl.exp2(tl.abs(logits) * -LOG2E)
    losses = tl.maximum(mirrored, 0.0) + _log1p(small)
    slope = tl.where(mirrored > 0, 1.0, small) / (1.0 + small)
    slope = tl.where(inside, tl.where(pair, -slope, slope), 0.0)
    _add_part(parts, 0, tl.sum(tl.sum(tl.where(inside, losses, 0.0), axis=1), axis=0), FIRST)
    _add_part(parts, parts_stride, tl.sum(tl.sum(slope, axis=1), axis=0), FIRST)
    _add_part(parts, 2 * parts_stride, tl.sum(tl.sum(slope * raw, axis=1), axis=0), FIRST)
    if STORE:
        _store_planes(gradient, row[:, None] * out_stride + column[None, :], inside, slope * gain, plane, PLANES)


@triton.jit
def _log_sum(logits, axis: tl.constexpr):
    """log2 of the sum of 2^logits along an axis by its own maximum; minus infinity where nothing is summed."""
    top = tl.max(logits, axis=axis)
    top = tl.where(top == -float("inf"), 0.0, top)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(top, axis)), axis=axis)
    return top + tl.log2(total)


@triton.jit
def softmax_sums(
    products, scale, down, across, pairs, M, N, diagonal, stride, down_stride, across_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A tile's log-sums without the pairs: `down` (tiles across, M), `across` (tiles down, N); and the pairs' products (M,)."""
    row, column, inside = _tile(M, N, ROWS, COLUMNS)
    raw = tl.load(products + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
    other = inside & (column[None, :] - row[:, None] != diagonal)
    logits = tl.where(other, raw * (tl.load(scale) * LOG2E), -float("inf"))
    tl.store(down + tl.program_id(1).to(tl.int64) * down_stride + row, _log_sum(logits, 1), mask=row < M)
    tl.store(across + tl.program_id(0).to(tl.int64) * across_stride + column, _log_sum(logits, 0), mask=column < N)
    own = row + diagonal  # the column of the row's pair
    left = tl.program_id(1) * COLUMNS
    here = (row < M) & (own >= left) & (own < left + COLUMNS) & (own < N)
    tl.store(pairs + row, tl.load(products + row * stride + own, mask=here, other=0.0), mask=here)


@triton.jit
def merge_logs(parts, running, K, L, stride, FIRST: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr):
    """Merges K log-sums (K, L) into the running ones (L,), by each one's own maximum."""
    place = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = place < L
    depth = tl.arange(0, DEPTH)
    before = tl.full((WIDTH,), -float("inf"), tl.float32)
    if not FIRST:
        before = tl.load(running + place, mask=inside, other=-float("inf"))
    top = before
    for start in range(0, K, DEPTH):
        index = (start + depth)[:, None].to(tl.int64) * stride + place[None, :]
        values = tl.load(parts + index, mask=((start + depth) < K)[:, None] & inside[None, :], other=-float("inf"))
        top = tl.maximum(top, tl.max(values, axis=0))
    top = tl.where(top == -float("inf"), 0.0, top)
    total = tl.exp2(before - top)
    for start in range(0, K, DEPTH):
        index = (start + depth)[:, None].to(tl.int64) * stride + place[None, :]
        values = tl.load(parts + index, mask=((start + depth) < K)[:, None] & inside[None, :], other=-float("inf"))
        total += tl.sum(tl.exp2(values - top[None, :]), axis=0)
    tl.store(running + place, top + tl.log2(total), mask=inside)


@triton.jit
def _direction(logs, place, inside, pair, weight, minus_log):
    """Of one direction: the loss, what the pair gains; the log-sum over the others becomes the total less the weight's log."""
    gap = tl.load(logs + place, mask=inside, other=-float("inf")) - pair
    small = tl.exp2(-tl.abs(gap))
    soft = tl.maximum(gap, 0.0) + _log1p(small) * LOG2E
    tl.store(logs + place, pair + soft + minus_log, mask=inside)
    return weight * soft * LN2, weight * tl.where(gap > 0, 1.0, small) / (1.0 + small)


@triton.jit
def softmax_finish(
    rows, columns, pairs, own, parts, scale, N, row_weight, column_weight, row_minus_log, column_minus_log, WIDTH: tl.constexpr
):
    """From log-sums over the others and the pairs' products (N,): the loss in parts, and what the gradient needs."""
    place = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = place < N
    pair = tl.load(pairs + place, mask=inside, other=0.0) * (tl.load(scale) * LOG2E)
    row_loss, row_own = _direction(rows, place, inside, pair, row_weight, row_minus_log)
    column_loss, column_own = _direction(columns, place, inside, pair, column_weight, column_minus_log)
    tl.store(own + place, row_own + column_own, mask=inside)
    tl.store(parts + tl.program_id(0), tl.sum(tl.where(inside, row_loss + column_loss, 0.0), axis=0))


@triton.jit
def softmax_gradient(
    products, gradient, parts, scale, rows, columns, own, M, N, diagonal, stride, out_stride, plane, gain,
    FIRST: tl.constexpr, PLANES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient by the logits of a block times `gain`, and the sum of gradient x product."""
    row, column, inside = _tile(M, N, ROWS, COLUMNS)
    raw = tl.load(products + row[:, None] * stride + column[None, :], mask=inside, other=0.0)
    logits = raw * (tl.load(scale) * LOG2E)
    down = tl.load(rows + row, mask=row < M, other=0.0)
    across = tl.load(columns + column, mask=column < N, other=0.0)
    gain_of_pair = tl.load(own + row, mask=row < M, other=0.0)
    slope = tl.exp2(logits - down[:, None]) + tl.exp2(logits - across[None, :])
    slope = tl.where(column[None, :] - row[:, None] == diagonal, -gain_of_pair[:, None], slope)
    slope = tl.where(inside, slope, 0.0)
    _add_part(parts, 0, tl.sum(tl.sum(slope * raw, axis=1), axis=0), FIRST)
    _store_planes(gradient, row[:, None] * out_stride + column[None, :], inside, slope * gain, plane, PLANES)
