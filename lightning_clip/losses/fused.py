"""Triton kernels for a tile of logits on CUDA: product, exponential, pairs and sums at once, without writing the logits.

Used for bfloat16 features, whose products then run on tensor cores and still add up in float32, and only where a trial on the
device at hand finds them both equal to the plain tiles and faster. Everything else goes on with the plain tiles.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_product", "exponential_sums", "fused_wins", "sigmoid_tile", "softmax_gradient"]

log = logging.getLogger(__name__)
# Rows, columns and depth that one program of the kernels holds.
_ROWS, _COLUMNS, _DEPTH = 128, 128, 64
_TRIAL = 4096


def add_product(total: Tensor, values: Tensor, features: Tensor) -> None:
    """Adds the product of `values` and `features` to `total`, in whose type it is summed up."""
    if values.dtype == features.dtype != total.dtype and values.device.type == "cuda":
        total.add_(torch.mm(values, features, out_dtype=total.dtype))
    else:
        total.addmm_(values.to(total.dtype), features.to(total.dtype))


def exponential_sums(
    images: Tensor, texts: Tensor, scale: Tensor, shift: Tensor, diagonal: int | None
) -> tuple[Tensor, Tensor]:
    """Sums of exp(s u v - shift) over a tile's columns (M,) and rows (N,), pairs left out, float32.

    Each program writes its part, the parts are added up in a fixed order: the same sums each time.

    Args:
        images: (M, D), contiguous.
        texts: (N, D), contiguous.
        scale: s ().
        shift: ().
        diagonal: column of row 0's pair, None where the tile holds none.
    """
    grid = _grid(images, texts)
    down = images.new_empty(grid[1], len(images), dtype=torch.float32)
    across = images.new_empty(grid[0], len(texts), dtype=torch.float32)
    _kernels().sums[grid](images, texts, scale, shift, down, across, *_sizes(images, texts, diagonal), **_blocks())
    return down.sum(dim=0), across.sum(dim=0)


def softmax_gradient(
    images: Tensor, texts: Tensor, scale: Tensor, shift: Tensor, rows: Tensor, columns: Tensor, diagonal: int | None
) -> Tensor:
    """The values exp(s u v - shift) (rows_i + columns_j) of a tile (M, N), 0 at the pairs, in the features' type.

    Args:
        images: (M, D), contiguous.
        texts: (N, D), contiguous.
        scale: s ().
        shift: ().
        rows: (M,) float32.
        columns: (N,) float32.
        diagonal: column of row 0's pair, None where the tile holds none.
    """
    out = images.new_empty(len(images), len(texts))
    arguments = (images, texts, scale, shift, rows, columns, out, *_sizes(images, texts, diagonal))
    _kernels().gradient[_grid(images, texts)](*arguments, **_blocks())
    return out


def sigmoid_tile(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, diagonal: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of log(1 + e^z) () and of sigmoid(z) () over a tile, and sigmoid(z) (M, N) in the features' type; z = s u v + b."""
    grid = _grid(images, texts)
    out = images.new_empty(len(images), len(texts))
    losses, sums = (images.new_empty(grid, dtype=torch.float32) for _ in range(2))
    arguments = (images, texts, scale, bias, out, losses, sums, *_sizes(images, texts, diagonal))
    _kernels().sigmoid[grid](*arguments, **_blocks())
    return losses.sum(dtype=torch.float64), sums.sum(dtype=torch.float64), out


def fused_wins(features: Tensor) -> bool:
    """Whether the kernels are equal to plain tiles and faster for features (B, D) of this device, type and width."""
    if features.device.type != "cuda" or features.dtype != torch.bfloat16 or importlib.util.find_spec("triton") is None:
        return False
    return _wins(features.device, features.shape[1])


@functools.cache
def _wins(device: torch.device, width: int) -> bool:
    try:
        with torch.random.fork_rng(devices=[device]), torch.no_grad():
            return _equal_and_faster(device, width)
    except Exception as error:  # a compiler or device that cannot is no reason to stop: plain tiles can
        log.warning("the fused loss is not used on %s: %s", device, str(error).strip().splitlines()[:1] or type(error).__name__)
        return False


def _equal_and_faster(device: torch.device, width: int) -> bool:
    draw = functools.partial(torch.randn, _TRIAL, width, device=device)
    images, texts = (torch.nn.functional.normalize(draw(), dim=-1).bfloat16() for _ in range(2))
    scale, shift = torch.tensor(20.0, device=device), torch.tensor(0.0, device=device)
    ones = torch.ones(_TRIAL, device=device)

    def plain() -> tuple[Tensor, Tensor]:
        values = ((scale * images.float()) @ texts.float().t()).exp_()
        values.fill_diagonal_(0)
        return values.sum(dim=1), (values * (ones[:, None] + ones)) @ texts.float()

    def fused() -> tuple[Tensor, Tensor]:
        rows, _ = exponential_sums(images, texts, scale, shift, 0)
        values = softmax_gradient(images, texts, scale, shift, ones, ones, 0)
        total = torch.zeros_like(texts, dtype=torch.float32)
        add_product(total, values, texts)
        return rows, total

    for found, expected, limit in zip(fused(), plain(), (1e-5, 4e-3), strict=True):
        if (found - expected).norm() > limit * expected.norm():
            log.warning("the fused loss is not used on %s: its results differ", device)
            return False
    return _milliseconds(fused) < _milliseconds(plain)


def _milliseconds(work: Callable[[], object]) -> float:
    from triton.testing import do_bench

    return float(do_bench(work, warmup=5, rep=20))


def _grid(images: Tensor, texts: Tensor) -> tuple[int, int]:
    return -(-len(images) // _ROWS), -(-len(texts) // _COLUMNS)


def _sizes(images: Tensor, texts: Tensor, diagonal: int | None) -> tuple[int, ...]:
    # Where there is no pair the diagonal is put beyond the tile.
    return len(images), len(texts), images.shape[1], len(texts) if diagonal is None else diagonal


def _blocks() -> dict[str, int]:
    return {"ROWS": _ROWS, "COLUMNS": _COLUMNS, "DEPTH": _DEPTH}


def _kernels() -> Any:
    from lightning_clip.losses import kernels  # here: Triton is absent where CUDA is

    return kernels
