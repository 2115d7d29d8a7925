"""Linear layers whose input is computed again in backward instead of being kept: behind a LayerNorm and behind an activation.

A linear layer keeps its input for the gradient of its weights. Behind a LayerNorm or a GELU that input is cheap to compute
again from what these keep themselves, and is a third of all that a block would hold. Results are equal bit for bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import QuickGELU
from timm.layers.norm import LayerNorm as TimmLayerNorm
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn.functional import layer_norm, linear

__all__ = ["behind_activation", "behind_norm", "is_plain_linear", "passes_forward", "untouched"]

_NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, TimmLayerNorm)
# Elementwise, without parameters or random numbers.
_ACTIVATIONS: tuple[type[nn.Module], ...] = (nn.GELU, QuickGELU, nn.ReLU, nn.SiLU)
_ALL = slice(None)


def behind_norm(norm: Any, layer: Any, x: Tensor, outputs: slice = _ALL) -> Tensor:
    """What `layer(norm(x))[..., outputs]` gives, its normalised input computed again in backward where that helps.

    Args:
        norm: any layer; only a plain LayerNorm is computed again.
        layer: any layer; of a plain linear one nothing but the outputs is computed.
        x: (..., W).
        outputs: which of the layer's.

    Returns:
        (..., O).
    """
    if not is_plain_linear(layer):
        out: Tensor = layer(norm(x))
        return out if outputs == _ALL else out[..., outputs]
    weight, bias = _part(layer, outputs)
    if _helps(layer, x) and untouched(norm, *_NORMS) and not getattr(norm, "_fast_norm", False):
        normalise = partial(_normalised, norm.normalized_shape, norm.eps)
        return _recomputed(normalise, weight, bias, x, norm.weight, norm.bias)
    return linear(norm(x), weight, bias)  # (..., W) -> (..., O)


def behind_activation(activation: nn.Module, layer: Any, x: Tensor) -> Tensor:
    """What `layer(activation(x))` gives, the activation computed again in backward where that helps.

    Args:
        activation: any layer; only a known elementwise one, such as GELU, is computed again.
        layer: any layer.
        x: (..., W).

    Returns:
        (..., O).
    """
    if is_plain_linear(layer) and _helps(layer, x) and untouched(activation, *_ACTIVATIONS) and not _in_place(activation):
        # Not called as a module: those that listen to all modules must not be told of it twice.
        return _recomputed(activation.forward, layer.weight, layer.bias, x)
    out: Tensor = layer(activation(x))
    return out


def is_plain_linear(layer: Any) -> bool:
    """Whether a layer is exactly a linear one and nobody listens to its calls; adapters are none."""
    return untouched(layer, nn.Linear)


def untouched(layer: Any, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is exactly of one of these classes and nobody listens to its calls, so that it need not be called."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks
    return type(layer) in kinds and not hooks and "forward" not in layer.__dict__


def _helps(layer: Any, x: Tensor) -> bool:
    """Whether computing the input of a linear layer again saves memory, and little time is lost.

    A frozen layer keeps no input, and a compiler decides for itself what it computes again. Under autocast what is kept is a
    rounded copy. On an accelerator launches count for more than memory. Tensors of other classes (sharded, without memory) are
    left to torch.
    """
    learns = torch.is_grad_enabled() and layer.weight.requires_grad
    here = type(x) is Tensor and x.device.type == "cpu"
    return learns and here and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()


def _in_place(activation: nn.Module) -> bool:
    return bool(getattr(activation, "inplace", False))


def _part(layer: Any, outputs: slice) -> tuple[Tensor, Tensor | None]:
    if outputs == _ALL:
        return layer.weight, layer.bias
    return layer.weight[outputs], None if layer.bias is None else layer.bias[outputs]


def _normalised(shape: list[int], eps: float, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return layer_norm(x, shape, weight, bias, eps)


def _recomputed(
    make: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, x: Tensor, *parameters: Tensor | None
) -> Tensor:
    out: Tensor = _Recomputed.apply(make, weight, bias, x, *parameters)  # type: ignore[no-untyped-call]
    return out


_pass = threading.local()


def passes_forward() -> bool:
    """Whether a layer here computes a forward pass: torch then has gradients disabled, as it has in backward."""
    return getattr(_pass, "forward", False)


class _Recomputed(Function):
    """`linear(make(x, *parameters), weight, bias)`, which keeps x and not what was made of it."""

    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], weight: Tensor, bias: Tensor | None, *inputs: Tensor | None) -> Tensor:
        ctx.make = make
        ctx.save_for_backward(weight, *inputs)
        _pass.forward = True
        try:
            return linear(make(*inputs), weight, bias)
        finally:
            _pass.forward = False

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        _, for_weight, for_bias, *for_inputs = ctx.needs_input_grad
        leaves = [
            None if value is None else value.detach().requires_grad_(needed)
            for value, needed in zip(inputs, for_inputs, strict=True)
        ]
        with torch.enable_grad():
            made = ctx.make(*leaves)
        rows = grad.reshape(-1, grad.shape[-1])  # (..., O) -> (N, O)
        weight_grad = rows.t() @ made.detach().reshape(-1, made.shape[-1]) if for_weight else None  # -> (O, W)
        bias_grad = rows.sum(dim=0) if for_bias else None
        wanted = [leaf for leaf in leaves if leaf is not None and leaf.requires_grad]
        found = iter(torch.autograd.grad(made, wanted, (rows @ weight).view_as(made)) if wanted else ())
        return None, weight_grad, bias_grad, *(next(found) if needed else None for needed in for_inputs)
