"""Features as factors of matrix products on a GPU's tensor cores, and the products back to features.

Tensor cores multiply half precision and add up in float32. Features of half precision are multiplied as they are. Float32
features are rounded to half precision (as autocast would), or become three bfloat16 values whose sum they are: six products of
those have float32's precision and take half the time of one float32 product.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Factors", "Tile", "factors_of", "gain_of", "pair_products", "scaled"]

# Rows and depth of a program that multiplies pairs.
PAIR_ROWS, PAIR_DEPTH = 8, 256
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
        planes: (P, B, D') of one type, whose sum over P the features are; D' is D or a little more, filled up with zeros.
    """

    planes: Tensor

    @property
    def rows(self) -> int:
        """B."""
        return self.planes.shape[1]

    @property
    def width(self) -> int:
        """Values of a row, D'."""
        return self.planes.shape[2]

    @property
    def products(self) -> int:
        """How many products of planes make one product of features."""
        return sum(max(pair) < len(self.planes) for pair in SPLIT)

    def descriptor(self, rows: int, depth: int) -> Any:
        """What a kernel loads pieces (rows, depth) by."""
        from triton.tools.tensor_descriptor import TensorDescriptor  # here: Triton is absent where CUDA is

        return TensorDescriptor.from_tensor(self.planes.view(-1, self.width), [rows, depth])

    def combine(self, slopes: Tensor, first: int, out: Tensor, add: bool) -> None:
        """Writes to `out` (M, D'), or adds to it, rows from `first` on, combined by slopes (P, M, rows)."""
        rows = self.planes[:, first : first + slopes.shape[2]]
        for one, two in SPLIT:
            if max(one, two) < len(slopes):
                _multiply(slopes[one], rows[two], out, add)
                add = True


def factors_of(features: Tensor, dtype: torch.dtype, planes: int) -> Factors:
    """Features (B, D) as the sum of `planes` values of `dtype`; one value rounds them to it."""
    missing = -features.shape[1] % 8  # rows begin at multiples of 16 bytes
    rest = torch.nn.functional.pad(features, (0, missing)) if missing else features
    if planes == 1:
        found = rest.to(dtype).contiguous()[None]
        return Factors(found if found.data_ptr() % 16 == 0 else found.clone())
    parts = []
    for _ in range(planes):
        parts.append(rest.to(dtype))
        rest = rest - parts[-1]
    return Factors(torch.stack(parts))


def gain_of(dtype: torch.dtype) -> float:
    """By what slopes, which are at most 1, are multiplied so that `dtype` holds their small values."""
    return 2.0**15 if dtype == torch.float16 else 1.0


def pair_products(images: Factors, texts: Factors, offset: int) -> Tensor:
    """The inner product of each row of images with the row of texts `offset` after it, (B,) float32.

    In float32 throughout: tensor cores round sums near 1 down, and of all logits the pairs' count most.
    """
    from lightning_clip.losses import cuda_kernels  # here: Triton is absent where CUDA is

    left, right = images.planes, texts.planes[:, offset:]
    pairs = left.new_empty(images.rows, dtype=torch.float32)
    cuda_kernels.pair_products[(-(-images.rows // PAIR_ROWS),)](
        left, right, pairs, images.rows, images.width, left.stride(0), right.stride(0), PLANES=len(left), ROWS=PAIR_ROWS,
        DEPTH=PAIR_DEPTH,
    )  # fmt: skip
    return pairs


def scaled(value: Tensor, factor: Tensor, like: Tensor) -> Tensor:
    """`value` (B, D') times `factor` (), in shape and type of `like` (B, D), rounded once."""
    return torch.mul(value[:, : like.shape[1]], factor, out=torch.empty_like(like))


def _multiply(left: Tensor, right: Tensor, out: Tensor, add: bool) -> None:
    """`out` (float32) becomes, or grows by, a product of half precision whose terms are summed in float32."""
    if left.device.type != "cuda":  # Triton's interpreter runs on the CPU, which lacks such products
        torch.addmm(out, left.float(), right.float(), beta=int(add), out=out)
    elif add:
        torch.addmm(out, left, right, out_dtype=torch.float32, out=out)
    else:
        torch.mm(left, right, out_dtype=torch.float32, out=out)
