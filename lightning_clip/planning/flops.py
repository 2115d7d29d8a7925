"""FLOPs of a step in three accounts: forward, backward and recomputed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from typing_extensions import Self

from lightning_clip.encoders.recomputed import passes_forward

__all__ = ["FlopCounter", "Flops"]


@dataclass(frozen=True)
class Flops:
    """Floating point operations, a multiplication and an addition being two.

    Args:
        forward: of the forward pass.
        backward: of the backward pass.
        recomputed: of forward work that activation checkpointing does a second time: time that is spent, but not useful.
    """

    forward: float = 0
    backward: float = 0
    recomputed: float = 0

    @property
    def useful(self) -> float:
        """Forward and backward, what MFU counts."""
        return self.forward + self.backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward, self.recomputed + other.recomputed)

    def __mul__(self, times: float) -> Flops:
        return Flops(self.forward * times, self.backward * times, self.recomputed * times)


class FlopCounter:
    """`torch.utils.flop_counter.FlopCounterMode` that books each matrix product under the pass that asked for it.

    Call `backward()` when the backward pass begins and `forward()` when it ends. Inside it autograd's own products run without
    gradients, while a checkpointed block that is computed again runs with them, or says so: the two are told apart by that.

    Examples:
        >>> x, w = torch.ones(3, 5), torch.ones(5, 7, requires_grad=True)
        >>> with FlopCounter() as counter:
        ...     loss = (x @ w).sum()
        ...     counter.backward()
        ...     loss.backward()
        >>> counter.flops
        Flops(forward=210, backward=210, recomputed=0)
    """

    def __init__(self) -> None:
        self._account = "forward"
        self._counted = {"forward": 0, "backward": 0, "recomputed": 0}
        formulas = {**_cpu_attention(), **flop_registry, **_amendments()}
        self._mode: Any = FlopCounterMode(
            display=False, custom_mapping={operator: self._booking(formula) for operator, formula in formulas.items()}
        )

    @property
    def flops(self) -> Flops:
        """What was counted so far."""
        return Flops(**self._counted)

    def forward(self) -> None:
        """From here on it is the forward pass."""
        self._account = "forward"

    def backward(self) -> None:
        """From here on it is the backward pass."""
        self._account = "backward"

    def __enter__(self) -> Self:
        self._mode.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None = None, error: BaseException | None = None, trace: TracebackType | None = None
    ) -> None:
        self._mode.__exit__(kind, error, trace)

    def _booking(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        def book(*arguments: Any, **options: Any) -> Any:
            count = formula(*arguments, **options)
            again = self._account == "backward" and (torch.is_grad_enabled() or passes_forward())
            self._counted["recomputed" if again else self._account] += count
            return count

        book._get_raw = True  # type: ignore[attr-defined]  # formulas of the registry take tensors, not shapes
        return book


def _cpu_attention() -> dict[Any, Callable[..., Any]]:
    """Formulas that the registry of older torch versions lacks: attention as CPUs compute it."""
    counts: Any = flop_counter
    names = ("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward")
    forward, backward = (getattr(torch.ops.aten, name, None) for name in names)

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return counts.sdpa_flop_count(query.shape, key.shape, value.shape)

    def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> Any:
        return counts.sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)

    formulas: dict[Any, Callable[..., Any]] = {forward: attention, backward: attention_backward}
    return {operator: formula for operator, formula in formulas.items() if operator is not None}


def _amendments() -> dict[Any, Callable[..., Any]]:
    """Products in place, which the registry does not know, and convolutions in groups, of which it counts too many."""
    aten = torch.ops.aten
    return {
        aten.addmm_: flop_registry[aten.addmm],
        aten.baddbmm_: flop_registry[aten.baddbmm],
        aten.convolution_backward: _convolution_backward,
    }


def _convolution_backward(gradient: Any, image: Any, weight: Any, *settings: Any, **_: Any) -> Any:
    """As many as forward for each gradient that is asked for."""
    counts: Any = flop_counter
    _, _, _, _, transposed, _, _, asked = settings
    return sum(asked[:2]) * counts.conv_flop_count(image.shape, weight.shape, gradient.shape, transposed)
