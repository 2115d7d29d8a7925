"""The Triton kernels of the softmax loss: log-sums, and the gradient by the logits; imported only where Triton is."""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from lightning_clip.losses.cuda_kernels import (
    LN2,
    LOG2E,
    NEVER,
    add_part,
    log1p,
    pairs_here,
    products_of,
    quarters,
    store_pairs,
    store_slopes,
)

__all__ = ["merge_logs", "softmax_fill", "softmax_finish", "softmax_sums"]


@triton.jit
def _log_sum(logits, axis: tl.constexpr):
    """log2 of the sum of 2^logits along an axis, by its own maximum; minus infinity where nothing is summed."""
    top = tl.max(logits, axis=axis)
    total = tl.sum(tl.exp2(logits - tl.expand_dims(top, axis)), axis=axis)
    return tl.where(top < NEVER * 1e-9, -float("inf"), top + tl.log2(total))


@triton.jit
def softmax_sums(
    images, texts, scale, down, across, first, M, N, D, all_rows, diagonal, down_stride, across_stride,
    PAIRS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows `first`...: each tile's log-sums without its pairs, `down` (tiles across, M) and `across` (tiles down, N)."""
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    factor = tl.load(scale) * LOG2E
    logits = factor * products_of(
        images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH
    )
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    tl.store(down + tl.program_id(1).to(tl.int64) * down_stride + row, _log_sum(logits, 1), mask=row < M)
    tl.store(across + tl.program_id(0).to(tl.int64) * across_stride + column, _log_sum(logits, 0), mask=column < N)


@triton.jit
def merge_logs(
    down, across, rows, columns, M, N, down_count, across_count, down_stride, across_stride,
    DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Merges log-sums (count, M) into the rows' (M,), and (count, N) into the running ones of the columns (N,)."""
    programs = tl.cdiv(M, WIDTH)
    if tl.program_id(0) < programs:
        _merge(down, rows, tl.program_id(0), down_count, M, down_stride, True, DEPTH, WIDTH)
    else:
        _merge(across, columns, tl.program_id(0) - programs, across_count, N, across_stride, False, DEPTH, WIDTH)


@triton.jit
def _merge(parts, running, program, K, L, stride, FRESH: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr):
    """Merges log-sums (K, L) into the running ones (L,), each by its own maximum."""
    place, depth = program * WIDTH + tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    before = tl.full((WIDTH,), -float("inf"), tl.float32)
    if not FRESH:
        before = tl.load(running + place, mask=place < L, other=-float("inf"))
    top = before
    for start in range(0, K, DEPTH):
        index = (start + depth)[:, None].to(tl.int64) * stride + place[None, :]
        values = tl.load(parts + index, mask=((start + depth) < K)[:, None] & (place < L)[None, :], other=-float("inf"))
        top = tl.maximum(top, tl.max(values, axis=0))
    top = tl.where(top == -float("inf"), 0.0, top)
    total = tl.exp2(before - top)
    for start in range(0, K, DEPTH):
        index = (start + depth)[:, None].to(tl.int64) * stride + place[None, :]
        values = tl.load(parts + index, mask=((start + depth) < K)[:, None] & (place < L)[None, :], other=-float("inf"))
        total += tl.sum(tl.exp2(values - top[None, :]), axis=0)
    tl.store(running + place, top + tl.log2(total), mask=place < L)


@triton.jit
def _direction(logs, place, inside, pair, weight, minus_log):
    """Of one direction: the loss, what the pair gains; the log-sum over the others becomes the total less the weight's log."""
    gap = tl.load(logs + place, mask=inside, other=-float("inf")) - pair
    small = tl.exp2(-tl.abs(gap))
    soft = tl.maximum(gap, 0.0) + log1p(small) * LOG2E
    tl.store(logs + place, pair + soft + minus_log, mask=inside)
    return weight * soft * LN2, weight * tl.where(gap > 0, 1.0, small) / (1.0 + small)


@triton.jit
def softmax_finish(
    rows, columns, pairs, own, parts, scale, M, row_weight, column_weight, row_minus_log, column_minus_log, WIDTH: tl.constexpr
):
    """From log-sums over the others and the pairs' products (M,): the loss in parts, and what the gradient needs."""
    place = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inside = place < M
    pair = tl.load(pairs + place, mask=inside, other=0.0) * (tl.load(scale) * LOG2E)
    row_loss, row_own = _direction(rows, place, inside, pair, row_weight, row_minus_log)
    column_loss, column_own = _direction(columns, place, inside, pair, column_weight, column_minus_log)
    tl.store(own + place, -(row_own + column_own), mask=inside)
    tl.store(parts + tl.program_id(0), tl.sum(tl.where(inside, row_loss + column_loss, 0.0), axis=0))


@triton.jit
def _softmax_part(
    raw, factor, down, columns, row_weight, column_weights, row, column, gradient, M, N, stride, plane,
    WEIGHTED: tl.constexpr, PLANES: tl.constexpr, GAIN: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Of a part of a tile: row sums of slope x product."""
    across = tl.load(columns + column, mask=column < N, other=0.0)
    slope, other = tl.exp2(raw * factor - down[:, None]), tl.exp2(raw * factor - across[None, :])
    if WEIGHTED:
        slope *= row_weight
        other *= tl.load(column_weights + column, mask=column < N, other=0.0)[None, :]
    slope += other
    store_slopes(slope, gradient, row, column, M, N, stride, plane, PLANES, GAIN, EVEN)
    return tl.sum(slope * raw, axis=1)


@triton.jit
def softmax_fill(
    images, texts, pairs, rows, owns, columns, row_weight, column_weights, gradient, parts, scale,
    first, M, N, D, all_rows, diagonal, stride, plane,
    WEIGHTED: tl.constexpr, PLANES: tl.constexpr, PAIRS: tl.constexpr, GAIN: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows `first`... of the softmax loss: the slopes (M, N), and the sum of slope x product."""
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    factor, weight = tl.load(scale) * LOG2E, tl.load(row_weight)
    total = products_of(images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH)
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS // 4)
    own_column, here = pairs_here(row, left, diagonal, M, N, COLUMNS)
    own = tl.load(owns + row, mask=here, other=0.0)
    if WEIGHTED:
        own *= weight
    moments = own * tl.load(pairs + row, mask=here, other=0.0)
    down = tl.load(rows + row, mask=row < M, other=0.0)
    products = quarters(total)
    for index in tl.static_range(4):
        moments += _softmax_part(
            products[index], factor, down, columns, weight, column_weights, row, column + index * (COLUMNS // 4), gradient,
            M, N, stride, plane, WEIGHTED, PLANES, GAIN, EVEN,
        )  # fmt: skip
    store_pairs(own, here, gradient, row, own_column, stride, plane, PLANES, GAIN)
    add_part(parts, 0, tl.sum(moments))
