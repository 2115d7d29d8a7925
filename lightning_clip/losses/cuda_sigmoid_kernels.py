"""The Triton kernel of the sigmoid loss: a product, the loss and its gradient by the logits; imported only where Triton is."""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from lightning_clip.losses.cuda_kernels import (
    LN2,
    LOG2E,
    add_part,
    halves,
    log1p,
    pairs_here,
    products_of,
    quarters,
    store_pairs,
    store_slopes,
)

__all__ = ["sigmoid_fill"]


@triton.jit
def _fold(values):
    """(1 + a) (1 + b) - 1 of the two halves of (R, C): no digit of a small value is lost."""
    one, two = halves(values)
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
    store_slopes(slope, gradient, row, column, M, N, stride, plane, PLANES, GAIN, EVEN)
    above = tl.sum(tl.maximum(logits, 0.0), axis=1)
    return _fold(_fold(small)), above, tl.sum(slope, axis=1), tl.sum(slope * raw, axis=1)


@triton.jit
def sigmoid_fill(
    images, texts, pairs, gradient, parts, scale, bias, first, M, N, D, all_rows, diagonal, stride, plane, parts_stride,
    PLANES: tl.constexpr, PAIRS: tl.constexpr, GAIN: tl.constexpr, EVEN: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows `first`... of the sigmoid loss: its sum, that of its slopes and of slope x product, and the slopes (M, N)."""
    top, left = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    factor, offset = tl.load(scale) * LOG2E, tl.load(bias) * LOG2E
    total = products_of(images, texts, factor, first, top, left, M, N, D, all_rows, diagonal, PAIRS, EVEN, ROWS, COLUMNS, DEPTH)
    row, column = top + tl.arange(0, ROWS), left + tl.arange(0, COLUMNS // 4)
    # A pair's loss is log(1 + e^-z), its slope -e^-z / (1 + e^-z).
    own_column, here = pairs_here(row, left, diagonal, M, N, COLUMNS)
    own = tl.load(pairs + row, mask=here, other=0.0)
    logit = own * factor + offset
    small = tl.exp2(-tl.abs(logit))
    slopes = tl.where(here, tl.where(logit > 0, -small, -1.0) / (1.0 + small), 0.0)
    losses = tl.where(here, tl.maximum(-logit, 0.0) * LN2 + log1p(small), 0.0)
    moments = slopes * own
    own = slopes

    products = quarters(total)
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
    store_pairs(own, here, gradient, row, own_column, stride, plane, PLANES, GAIN)
    add_part(parts, 0, tl.sum(losses + tl.sum(log1p(product), axis=1)))
    add_part(parts, parts_stride, tl.sum(slopes))
    add_part(parts, 2 * parts_stride, tl.sum(moments))
