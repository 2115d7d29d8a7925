"""Features as factors of matrix products on a GPU's tensor cores, and the products back to features.

Tensor cores multiply half precision and add up in float32. Features of half precision are multiplied as they are. Float32
features are rounded to half precision (as autocast would), or become three bfloat16 values whose sum they are: six products of
those have float32's precision and take half the time of one float32 product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors", "Tile", "factors_of", "gain_of", "pair_products", "scaled"]

# Rows and depth of a program that multiplies pairs.
PAIR_ROWS, PAIR_DEPTH = 8, 256
# Tensor cores cut off the last digits of what they add up: products of float32's precision are added up in float32 after as
# many terms.
EXACT_DEPTH = 2048
# Which planes of two split values are multiplied, the smallest products first; as in `cuda_kernels`.
SPLIT = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


class Tile(NamedTuple):
    """What one program of a kernel works on.

    Attributes:
        rows: of the matrix of logits.
        columns: of the matrix of logits.
        depth: values of a feature that are multiplied at a time.
        warps: of 32 threads.
        stages: steps of `depth` that are loaded ahead.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int

    def grid(self, rows: int, columns: int) -> tuple[int, int]:
        """Programs down and across."""
        return -(-rows // self.rows), -(-columns // self.columns)

    def options(self, rows: int, columns: int) -> dict[str, Any]:
        """As a kernel takes them for a matrix; without a rest at its edges nothing is compared with its size."""
        sizes = {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}
        without_rest = rows % self.rows == 0 and columns % self.columns == 0
        return {**sizes, "EVEN": without_rest, "num_warps": self.warps, "num_stages": self.stages}


class Factors(NamedTuple):
    """Features as what is multiplied.

    Attributes:
        planes: P of (B, D') in one type, whose sum the features are; D' is D or a little more, filled up with zeros.
        flat: the same, one under the other (P B, D').
        rows: B.
        width: D'.
    """

    planes: tuple[Tensor, ...]
    flat: Tensor
    rows: int
    width: int

    @property
    def products(self) -> int:
        """How many products of planes make one product of features."""
        return 1 if len(self.planes) == 1 else len(SPLIT)

    def descriptor(self, rows: int, depth: int) -> Any:
        """What a kernel loads pieces (rows, depth) by."""
        from triton.tools.tensor_descriptor import TensorDescriptor  # here: Triton is absent where CUDA is

        return TensorDescriptor(self.flat, [len(self.planes) * self.rows, self.width], [self.width, 1], [rows, depth])

    def combine(self, slopes: Sequence[Tensor], first: int, out: Tensor, add: bool) -> None:
        """Writes to `out` (M, D'), or adds to it, rows from `first` on, combined by slopes, P of (M, rows)."""
        count = slopes[0].shape[1]
        if len(slopes) == 1:
            features = self.flat if count == self.rows else self.flat[first : first + count]
            _multiply(slopes[0], features, out, add)
            return
        for left in range(0, count, EXACT_DEPTH):
            part = slice(left, min(left + EXACT_DEPTH, count))
            rows = slice(first + part.start, first + part.stop)
            for one, two in SPLIT:
                _multiply(slopes[one][:, part], self.planes[two][rows], out, add)
                add = True


def factors_of(features: Tensor, dtype: torch.dtype, planes: int) -> Factors:
    """Features (B, D) as the sum of `planes` values of `dtype`; one value rounds them to it."""
    count, width = features.shape
    if missing := -width % 8:  # rows begin at multiples of 16 bytes
        features, width = torch.nn.functional.pad(features, (0, missing)), width + missing
    if planes == 1:
        rounded = features.to(dtype).contiguous()
        flat = rounded if rounded.data_ptr() % 16 == 0 else rounded.clone()
        return Factors((flat,), flat, count, width)
    parts = []
    for _ in range(planes):
        parts.append(features.to(dtype))
        features = features - parts[-1]
    flat = torch.cat(parts)
    return Factors(torch.split(flat, count), flat, count, width)


def gain_of(dtype: torch.dtype) -> float:
    """By what slopes, which are at most 1, are multiplied so that `dtype` holds their small values."""
    return 2.0**15 if dtype == torch.float16 else 1.0


def pair_products(images: Factors, texts: Factors, offset: int) -> Tensor:
    """The inner product of each row of images with the row of texts `offset` after it, (B,) float32.

    In float32 throughout: tensor cores round sums near 1 down, and of all logits the pairs' count most.
    """
    from lightning_clip.losses import cuda_kernels  # here: Triton is absent where CUDA is

    width, pairs = images.width, images.flat.new_empty(images.rows, dtype=torch.float32)
    cuda_kernels.pair_products[(-(-images.rows // PAIR_ROWS),)](
        images.flat, texts.flat[offset:] if offset else texts.flat, pairs, images.rows, width, images.rows * width,
        texts.rows * width, PLANES=len(images.planes), ROWS=PAIR_ROWS, DEPTH=PAIR_DEPTH,
    )  # fmt: skip
    return pairs


def scaled(value: Tensor, factor: Tensor, like: Tensor) -> Tensor:
    """`value` (B, D') times `factor` (), in shape and type of `like` (B, D), rounded once."""
    width = like.shape[1]
    return torch.mul(value if value.shape[1] == width else value[:, :width], factor, out=torch.empty_like(like))


def _multiply(left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
    """`out` (float32) becomes, or grows by, a product of half precision whose terms are summed in float32."""
    if not left.is_cuda:  # Triton's interpreter runs on the CPU, which lacks such products
        torch.addmm(out, left.float(), right.float(), beta=int(add), out=out)
    elif add:
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
