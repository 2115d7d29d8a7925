"""Matrix products of the losses on CUDA: features as factors for the tensor cores, blocks that fit in memory, sums in float32.

Float32 features are multiplied as they are, rounded to half precision (as autocast would), or as sums of bfloat16 values,
which tensor cores multiply several times faster than float32 with the same precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors", "Plan", "factors_of", "gain_of", "plan_of", "scaled"]

# Rows that are multiplied at a time: enough to fill a large device with either of the products.
ROWS = 4096
# Entries of a block of float32 inner products, and bytes of the gradient of a chunk of rows.
BLOCK, GRADIENT = 2**25, 2**30
# Which planes of two split values are multiplied, the smallest products first: what follows them loses fewer of their digits.
SPLIT = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


class Plan(NamedTuple):
    """How a matrix (M, N) of inner products is cut: chunks of rows, in each of them blocks of columns.

    Attributes:
        height: rows of a chunk.
        width: columns of a block.
        shape: (M, N).
    """

    height: int
    width: int
    shape: tuple[int, int]

    def chunks(self) -> Iterator[slice]:
        """The rows of each chunk."""
        return (slice(top, min(top + self.height, self.shape[0])) for top in range(0, self.shape[0], self.height))

    def blocks(self) -> Iterator[slice]:
        """The columns of each block."""
        return (slice(left, min(left + self.width, self.shape[1])) for left in range(0, self.shape[1], self.width))


class Factors(NamedTuple):
    """Features as what is multiplied: planes (P, B, D) of one type whose sum they are."""

    planes: Tensor

    def part(self, place: slice) -> Factors:
        """Of some rows."""
        return Factors(self.planes[:, place])

    def __len__(self) -> int:
        return self.planes.shape[1]

    def products(self, other: Factors, out: Tensor) -> None:
        """The inner products (M, N) with the rows of another."""
        left, right = self.planes, other.planes
        if len(left) == 1:
            _multiply(left[0], right[0].t(), out)
        else:  # one product of several times the depth, which writes its result once
            pairs = [(one, two) for one, two in SPLIT if max(one, two) < len(left)]
            deep = torch.cat([left[one] for one, _ in pairs], dim=1)  # (P, M, D) -> (M, pairs D)
            _multiply(deep, torch.cat([right[two] for _, two in pairs], dim=1).t(), out)

    def combine(self, gradient: Tensor, out: Tensor, add: bool) -> None:
        """Writes to `out` (M, D), or adds to it, the rows combined by a gradient: planes (P, M, B) times (P, B, D)."""
        pairs = [(one, two) for one, two in SPLIT if max(one, two) < len(gradient)]
        for number, (one, two) in enumerate(pairs):
            _multiply(gradient[one], self.planes[two], out, add=add or number > 0)


def factors_of(features: Tensor, dtype: torch.dtype, planes: int) -> Factors:
    """Features (B, D) as `planes` values of `dtype`; one value rounds them to it."""
    found, rest = [], features
    for number in range(planes):
        found.append(rest.to(dtype))
        if number + 1 < planes:
            rest = rest - found[-1].to(rest.dtype)
    return Factors(torch.stack(found) if planes > 1 else found[0].contiguous()[None])


def gain_of(dtype: torch.dtype) -> float:
    """By what gradients of at most 1 are multiplied so that their small values are held by `dtype`."""
    return 2.0**15 if dtype == torch.float16 else 1.0


def plan_of(rows: int, columns: int, dtype: torch.dtype, planes: int) -> Plan:
    """Chunks and blocks for a matrix (rows, columns) whose gradient has `planes` values of `dtype`."""
    height = min(ROWS, GRADIENT // (columns * dtype.itemsize * planes))
    height = max(128, height // 128 * 128)
    width = max(128, BLOCK // min(height, rows) // 128 * 128)
    return Plan(height, width, (rows, columns))


def matrix(rows: int, columns: int, like: Tensor, dtype: torch.dtype, planes: int = 1) -> Tensor:
    """Memory (planes, rows, columns) whose rows begin at multiples of 16 values: aligned for wide loads and tensor cores."""
    return like.new_empty(planes, rows, -(-columns // 16) * 16, dtype=dtype)[:, :, :columns]


def scaled(value: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """`value` times `factor` () in `dtype`, rounded once."""
    return torch.mul(value, factor, out=torch.empty_like(value, dtype=dtype))


def _multiply(left: Tensor, right: Tensor, out: Tensor, add: bool = False) -> None:
    """`out` (float32) becomes, or grows by, a product whose terms are summed in float32."""
    if left.device.type != "cuda":  # Triton's interpreter; only CUDA has products of half precision with float32 results
        left, right = left.to(out.dtype), right.to(out.dtype)
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, out=out) if add else torch.mm(left, right, out=out)
    elif add:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
    else:
        torch.mm(left, right, out_dtype=out.dtype, out=out)
