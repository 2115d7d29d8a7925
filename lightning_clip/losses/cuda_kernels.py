"""The Triton kernels behind the losses on CUDA: a product and what is made of its logits, which are never written.

A program holds a tile of `ROWS` x `COLUMNS`. Features arrive as tensor descriptors over planes (P B, D) whose sum they are,
exponents and log-sums are to base 2, as the device computes them. Imported only where Triton is.
"""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["merge_logs", "pair_products", "sigmoid_fill", "softmax_fill", "softmax_finish", "softmax_sums"]

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
# Stands for an inner product that shall not count: its logit is so low that every exponential of it is 0, and it is finite, so
# that 0 times it is 0.
NEVER = tl.constexpr(-1e30)
# Which planes of two features are multiplied, two bits a step, the smallest products first: what follows them, the larger
# sums, loses fewer of their digits. (2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0)
LEFT = tl.constexpr(2 | 1 << 4 | 1 << 6)
RIGHT = tl.constexpr(2 << 2 | 1 << 4 | 1 << 8)


@triton.jit
def _products(
    images, texts, factor, first, top, left, M, N, D, all_rows, diagonal,
    PAIRS: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """The inner products of a tile, summed in float32, but `NEVER` at pairs and outside the matrix."""
    total = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    steps = tl.cdiv(D, DEPTH)
    for step in range(0, steps * PAIRS):
        depth = step * DEPTH
        above, before = first + top, left
        if PAIRS > 1:
            pair = step // steps
            depth -= pair * steps * DEPTH
            above += ((LEFT >> (2 * pair)) & 3) * all_rows
            before += ((RIGHT >> (2 * pair)) & 3) * N
        total = tl.dot(images.load([above, depth]), texts.load([before, depth]).T, total)
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    never = tl.where(factor < 0, -NEVER, NEVER)
    # A loop of one step or none: of a condition the compiler would make a comparison for every value of every tile.
    touches = (left <= top + diagonal + ROWS) & (left + COLUMNS > top + diagonal)
    for _ in range(0, touches.to(tl.int32)):
        total = tl.where(column[None, :] - row[:, None] == diagonal, never, total)
    if not EVEN:
        total = tl.where((row[:, None] < M) & (column[None, :] < N), total, never)
    return total


@triton.jit
def _halves(values):
    """The left and the right half of the columns of (R, C); no value changes its register."""
    shape: tl.constexpr = values.shape
    return tl.split(tl.permute(tl.reshape(values, (shape[0], 2, shape[1] // 2)), (0, 2, 1)))


@triton.jit
def _quarters(values):
    """The columns of (R, C) in four parts: what works on one of them at a time needs fewer registers."""
    left, right = _halves(values)
    return _halves(left) + _halves(right)


@triton.jit
def _store(
    slope, gradient, row, column, M, N, stride, plane, PLANES: tl.constexpr, GAIN: tl.constexpr, EVEN: tl.constexpr
):
    """Writes slopes (R, C) times `GAIN` as a sum of `PLANES` values of the gradient's type."""
    place = row[:, None].to(tl.int64) * stride + column[None, :]
    rest = slope
    if GAIN != 1.0:
        rest = slope * GAIN
    for index in tl.static_range(PLANES):
        part = rest.to(gradient.dtype.element_ty)
        if EVEN:
            tl.store(gradient + index * plane + place, part)
        else:
            tl.store(gradient + index * plane + place, part, mask=(row[:, None] < M) & (column[None, :] < N))
        if index + 1 < PLANES:
            rest -= part.to(tl.float32)


@triton.jit
def _pairs_here(row, left, diagonal, M, N, COLUMNS: tl.constexpr):
    """The columns of the rows' pairs, and which of them are in a tile."""
    column = row + diagonal
    return column, (row < M) & (column >= left) & (column < left + COLUMNS) & (column < N)


@triton.jit
def _store_pairs(slope, here, gradient, row, column, stride, plane, PLANES: tl.constexpr, GAIN: tl.constexpr):
    """Writes the pairs' slopes (R,) over what the tile's own stores left there."""
    tl.debug_barrier()
    rest = slope * GAIN
    for index in tl.static_range(PLANES):
        part = rest.to(gradient.dtype.element_ty)
        tl.store(gradient + index * plane + row.to(tl.int64) * stride + column, part, mask=here)
        rest -= part.to(tl.float32)


@triton.jit
def _add_part(parts, index, value, FIRST: tl.constexpr):
    """Adds a program's `value` to its own place in row `index` of `parts`, or puts it there: no program shares a place."""
    place = parts + index + tl.program_id(0) + tl.num_programs(0) * tl.program_id(1)
    if not FIRST:
        value += tl.load(place)
    tl.store(place, value)


@triton.jit
def pair_products(images, texts, pairs, M, D, left_plane, right_plane, PLANES: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """The inner product of each row with the row of the same place, in float32 throughout."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, DEPTH), dtype=tl.float32)
    for start in range(0, D, DEPTH):
        depth = start + tl.arange(0, DEPTH)
        place = row[:, None] * D + depth[None, :]
        inside = (row[:, None] < M) & (depth[None, :] < D)
        left = tl.zeros((ROWS, DEPTH), dtype=tl.float32)
        right = tl.zeros((ROWS, DEPTH), dtype=tl.float32)
        for index in tl.static_range(PLANES):
            left += tl.load(images + index * left_plane + place, mask=inside, other=0.0).to(tl.float32)
            right += tl.load(texts + index * right_plane + place, mask=inside, other=0.0).to(tl.float32)
        total += left * right
    tl.store(pairs + row, tl.sum(total, axis=1), mask=row < M)


@triton.jit
def _log1p(value):
    """The logarithm of 1 + value for value >= 0, as precise for small values as for large ones."""
    whole = 1.0 + value
    return tl.log(whole) + (value - (whole - 1.0)) / whole


@triton.jit
def _fold(values):
    """(1 + a) (1 + b) - 1 of the two halves of (R, C): no digit of a small value is lost."""
    one, two = _halves(values)
    return one + two + one * two


@triton.jit
def _sigmoid_part(
    raw, factor, offset, row, column, gradient, M, N, stride, plane,
    PLANES: tl.constexpr, GAIN: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Of a part of a tile: the product of 1 + e^-|z|, less 1, and row sums of max(z, 0), of slopes and of slope x product."""
    logits = raw * factor + offset  # to base 2
    small = tl.exp2(-tl.abs(logits))
    root = tl.rsqrt(1.0 + small)
    slope = tl.where(logits > 0, 1.0, small) * (root * root)
    _store(slope, gradient, row, column, M, N, stride, plane, PLANES, GAIN, EVEN)
    above = tl.sum(tl.maximum(logits, 0.0), axis=1)
    return _fold(_fold(small)), above, tl.sum(slope, axis=1), tl.sum(slope * raw, axis=1)


@triton.jit
def sigmoid_fill(
    images, texts, pairs, gradient, parts, scale, bias, first, M, N, D, all_rows, diagonal, stride, plane, parts_stride,
    FIRST: tl.constexpr, PLANES: tl.constexpr, PAIRS: tl.constexpr, GAIN: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows `first`... of the sigmoid loss: its sum, that of its slopes and of slope x product, and the slopes (M, N)."""
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    factor, offset = tl.load(scale) * LOG2E, tl.load(bias) * LOG2E
    total = _products(
        images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH
    )
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS // 4)
    # A pair's loss is log(1 + e^-z), its slope -e^-z / (1 + e^-z).
    own_column, here = _pairs_here(row, left, diagonal, M, N, COLUMNS)
    own = tl.load(pairs + row, mask=here, other=0.0)
    logit = own * factor + offset
    small = tl.exp2(-tl.abs(logit))
    slopes = tl.where(here, tl.where(logit > 0, -small, -1.0) / (1.0 + small), 0.0)
    losses = tl.where(here, tl.maximum(-logit, 0.0) * LN2 + _log1p(small), 0.0)
    moments = slopes * own
    own = slopes

    products = _quarters(total)
    product = tl.zeros((ROWS, COLUMNS // 16), dtype=tl.float32)
    for index in tl.static_range(4):
        product_part, above, slopes_part, moments_part = _sigmoid_part(
            products[index], factor, offset, row, column + index * (COLUMNS // 4), gradient, M, N, stride, plane,
            PLANES, GAIN, EVEN,
        )  # fmt: skip
        product += product_part + product * product_part  # one logarithm serves 16 values
        losses += above * LN2
        slopes += slopes_part
        moments += moments_part
    _store_pairs(own, here, gradient, row, own_column, stride, plane, PLANES, GAIN)
    _add_part(parts, 0, tl.sum(losses + tl.sum(_log1p(product), axis=1)), FIRST)
    _add_part(parts, parts_stride, tl.sum(slopes), FIRST)
    _add_part(parts, 2 * parts_stride, tl.sum(moments), FIRST)


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
    logits = factor * _products(
        images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH
    )
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS)
    tl.store(down + tl.program_id(1).to(tl.int64) * down_stride + row, _log_sum(logits, 1), mask=row < M)
    tl.store(across + tl.program_id(0).to(tl.int64) * across_stride + column, _log_sum(logits, 0), mask=column < N)


@triton.jit
def merge_logs(
    down, across, rows, columns, M, N, down_count, across_count, down_stride, across_stride,
    FIRST: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Merges log-sums (count, M) into the rows' (M,), and (count, N) into the running ones of the columns (N,)."""
    programs = tl.cdiv(M, WIDTH)
    if tl.program_id(0) < programs:
        _merge(down, rows, tl.program_id(0), down_count, M, down_stride, True, DEPTH, WIDTH)
    else:
        _merge(across, columns, tl.program_id(0) - programs, across_count, N, across_stride, FIRST, DEPTH, WIDTH)


@triton.jit
def _merge(parts, running, program, K, L, stride, FIRST: tl.constexpr, DEPTH: tl.constexpr, WIDTH: tl.constexpr):
    """Merges log-sums (K, L) into the running ones (L,), each by its own maximum."""
    place, depth = program * WIDTH + tl.arange(0, WIDTH), tl.arange(0, DEPTH)
    before = tl.full((WIDTH,), -float("inf"), tl.float32)
    if not FIRST:
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
    soft = tl.maximum(gap, 0.0) + _log1p(small) * LOG2E
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
    _store(slope, gradient, row, column, M, N, stride, plane, PLANES, GAIN, EVEN)
    return tl.sum(slope * raw, axis=1)


@triton.jit
def softmax_fill(
    images, texts, pairs, rows, columns, owns, row_weight, column_weights, gradient, parts, scale,
    first, M, N, D, all_rows, diagonal, stride, plane,
    FIRST: tl.constexpr, WEIGHTED: tl.constexpr, PLANES: tl.constexpr, PAIRS: tl.constexpr, GAIN: tl.constexpr,
    EVEN: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows `first`... of the softmax loss: the slopes (M, N), and the sum of slope x product."""
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    factor, weight = tl.load(scale) * LOG2E, tl.load(row_weight)
    total = _products(
        images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH
    )
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS // 4)
    own_column, here = _pairs_here(row, left, diagonal, M, N, COLUMNS)
    own = tl.load(owns + row, mask=here, other=0.0)
    if WEIGHTED:
        own *= weight
    moments = own * tl.load(pairs + row, mask=here, other=0.0)
    down = tl.load(rows + row, mask=row < M, other=0.0)
    products = _quarters(total)
    for index in tl.static_range(4):
        moments += _softmax_part(
            products[index], factor, down, columns, weight, column_weights, row, column + index * (COLUMNS // 4), gradient,
            M, N, stride, plane, WEIGHTED, PLANES, GAIN, EVEN,
        )  # fmt: skip
    _store_pairs(own, here, gradient, row, own_column, stride, plane, PLANES, GAIN)
    _add_part(parts, 0, tl.sum(moments), FIRST)
