"""Whether and how the kernels for CUDA take a loss: the type in which features are multiplied, and a trial on the device."""

from __future__ import annotations

import functools
import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.losses.cuda_ring import RingSigmoid, RingSoftmax
from lightning_clip.losses.cuda_sigmoid import CudaSigmoid
from lightning_clip.losses.cuda_softmax import CudaSoftmax
from lightning_clip.losses.exchange import Alone, Exchange, Ring

__all__ = ["PRECISIONS", "Multiplied", "check_precision", "cuda_sigmoid", "cuda_softmax", "multiplied_as"]

log = logging.getLogger(__name__)
PRECISIONS = ("auto", "bfloat16", "float16", "float32")
# Values of bfloat16 whose sum has float32's precision.
_PLANES = 3


class Multiplied(NamedTuple):
    """Features are multiplied as the sum of `planes` values of `dtype`."""

    dtype: torch.dtype
    planes: int


def check_precision(precision: str) -> str:
    """Hands back one of `PRECISIONS`.

    Raises:
        InputError: another word.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: {nearest(precision, PRECISIONS)}")
    return precision


def multiplied_as(features: Tensor, precision: str) -> Multiplied | None:
    """How features (B, D) on CUDA are multiplied; None where the plain tiles do it.

    Args:
        features: half precision is multiplied as it is, whatever the setting; sums and logits are float32 always.
        precision: for float32 features: "float32", or the type they are rounded to; "auto" follows autocast.

    Raises:
        InputError: an unknown precision.
    """
    check_precision(precision)
    if features.device.type != "cuda" or features.dtype == torch.float64:
        return None
    if features.dtype != torch.float32:
        return Multiplied(features.dtype, 1)
    if precision == "auto" and torch.is_autocast_enabled("cuda"):
        return Multiplied(torch.get_autocast_dtype("cuda"), 1)
    if precision in ("auto", "float32"):
        return Multiplied(torch.bfloat16, _PLANES)
    return Multiplied(getattr(torch, precision), 1)


def cuda_softmax(
    images: Tensor, texts: Tensor, scale: Tensor, exchange: Exchange, image_weight: float, precision: str
) -> Tensor | None:
    """The softmax loss () of features (B, D) on CUDA; None where the plain tiles are to compute it."""
    found = _usable("softmax", (images, texts, scale), precision)
    function = RingSoftmax if isinstance(exchange, Ring) else CudaSoftmax
    return None if found is None else function.apply(images, texts, scale, exchange, image_weight, *found)  # type: ignore[no-untyped-call, no-any-return]


def cuda_sigmoid(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, exchange: Exchange, precision: str
) -> Tensor | None:
    """The sigmoid loss () of features (B, D) on CUDA; None where the plain tiles are to compute it."""
    found = _usable("sigmoid", (images, texts, scale, bias), precision)
    function = RingSigmoid if isinstance(exchange, Ring) else CudaSigmoid
    return None if found is None else function.apply(images, texts, scale, bias, exchange, *found)  # type: ignore[no-untyped-call, no-any-return]


def _usable(name: str, operands: tuple[Tensor, ...], precision: str) -> Multiplied | None:
    images, texts = operands[:2]
    found = multiplied_as(images, precision)
    if found is None:
        return None
    # What is no batch of pairs on one device is left to the tiles, which tell what is wrong with it or cope.
    if images.shape != texts.shape or images.dtype != texts.dtype or len(images) == 0:
        return None
    if any(operand.device != images.device for operand in operands) or not _runs(name, images.device, found):
        return None
    return found


@functools.cache
def _runs(name: str, device: torch.device, found: Multiplied) -> bool:
    """Whether the device's compiler takes the kernels; forward and backward are tried once, nothing waits for the device."""
    try:
        with torch.inference_mode(False), torch.enable_grad():
            dtype = found.dtype if found.planes == 1 else torch.float32
            features = [torch.ones(128, 64, device=device, dtype=dtype, requires_grad=True) for _ in range(2)]
            one, exchange = torch.ones(1, device=device), Alone(128)
            arguments: tuple[Any, ...] = (one, exchange, 0.5) if name == "softmax" else (one, one, exchange)
            function = CudaSoftmax if name == "softmax" else CudaSigmoid
            loss: Tensor = function.apply(*features, *arguments, *found)  # type: ignore[no-untyped-call]
            loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a compiler, a driver or an older version lacks: plain tiles need none of it
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        log.warning("the %s loss has no kernels on %s and is computed in plain tiles: %s", name, device, reason)
        return False
    return True
