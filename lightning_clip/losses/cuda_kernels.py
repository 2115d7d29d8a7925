"""What the Triton kernels of the losses on CUDA share: a tile's product, its parts, and where results go.

A program holds a tile of `ROWS` x `COLUMNS` of the matrix of logits, which is never written. Features arrive as tensor
descriptors over planes (P B, D) whose sum they are; exponents and log-sums are to base 2, as the device computes them.
Imported only where Triton is.
"""

# Triton reads these functions' source: its own names and types, no annotations.
# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "LN2",
    "LOG2E",
    "NEVER",
    "add_part",
    "halves",
    "log1p",
    "pair_products",
    "pairs_here",
    "products_of",
    "quarters",
    "store_pairs",
    "store_slopes",
]

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
def products_of(
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
def halves(values):
    """The left and the right half of the columns of (R, C); no value changes its register."""
    shape: tl.constexpr = values.shape
    return tl.split(tl.permute(tl.reshape(values, (shape[0], 2, shape[1] // 2)), (0, 2, 1)))


@triton.jit
def quarters(values):
    """The columns of (R, C) in four parts: what works on one of them at a time needs fewer registers."""
    left, right = halves(values)
    return halves(left) + halves(right)


@triton.jit
def store_slopes(
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
def pairs_here(row, left, diagonal, M, N, COLUMNS: tl.constexpr):
    """The columns of the rows' pairs, and which of them are in a tile."""
    column = row + diagonal
    return column, (row < M) & (column >= left) & (column < left + COLUMNS) & (column < N)


@triton.jit
def store_pairs(slope, here, gradient, row, column, stride, plane, PLANES: tl.constexpr, GAIN: tl.constexpr):
    """Writes the pairs' slopes (R,) over what the tile's own stores left there."""
    tl.debug_barrier()
    rest = slope * GAIN
    for index in tl.static_range(PLANES):
        part = rest.to(gradient.dtype.element_ty)
        tl.store(gradient + index * plane + row.to(tl.int64) * stride + column, part, mask=here)
        rest -= part.to(tl.float32)


@triton.jit
def add_part(parts, index, value):
    """Adds a program's `value` to its own place in row `index` of `parts`: no program shares a place."""
    place = parts + index + tl.program_id(0) + tl.num_programs(0) * tl.program_id(1)
    tl.store(place, tl.load(place) + value)


@triton.jit
def pair_products(
    images, texts, pairs, M, D, left_plane, right_plane, PLANES: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr
):
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
def log1p(value):
    """The logarithm of 1 + value for value >= 0, as precise for small values as for large ones."""
    whole = 1.0 + value
    return tl.log(whole) + (value - (whole - 1.0)) / whole
