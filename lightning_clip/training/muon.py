"""Muon: steps of hidden matrices made orthogonal, AdamW for the rest.

timm's and torch's iterate in bfloat16, which CPUs compute 20 to 30 times more slowly than float32, and in which a sum in
another order, as ranks have it, becomes another step. Here CPUs iterate in float32, and shards are put together first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw

__all__ = ["Muon", "orthogonal"]

# Of each step of the iteration (a, b, c), as modded-nanogpt found them: singular values end nearer to 1 than with one triple.
_STEPS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (K, m, n) with their singular values brought near 1, by five steps of a quintic Newton-Schulz iteration.

    X <- a X + (b A + c A^2) X with A = X X^T (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Args:
        matrices: of any size; a matrix of zeros stays one.

    Examples:
        >>> values = torch.linalg.svdvals(orthogonal(torch.randn(1, 8, 20)))
        >>> bool(((values > 0.5) & (values < 1.3)).all())
        True
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x.to(torch.float32 if x.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-20)
    for a, b, c in _STEPS:
        square = x @ x.mT  # (K, m, n) -> (K, m, m)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(Optimizer):
    """Muon for groups with "matrices": True, AdamW for the others.

    M <- mu M + (1 - mu) G;  W <- W - lr (0.2 sqrt(max(m, n)) orthogonal((1 - mu) G + mu M) + decay W)

    A step has the size of AdamW's (Liu et al. 2025, arXiv 2502.16982, equation 4), so that one learning rate serves both.
    Filters (out, in, ...) of convolutions are matrices (out, in x ...).

    Args:
        groups: of parameters, each with "matrices".
        lr: learning rate.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: of both, times the learning rate.
        momentum: mu, in [0, 1).
        fused: AdamW in one kernel.

    Raises:
        ValueError: a momentum out of range.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        fused: bool = False,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum {momentum} must be >= 0 and < 1")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "momentum": momentum, "fused": fused}
        super().__init__(groups, {**defaults, "matrices": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient.

        Args:
            closure: computes loss and gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self._muon if group["matrices"] else self._adamw)(group, parameters)
        return loss

    def _muon(self, group: dict[str, Any], parameters: list[Any]) -> None:
        """Matrices of one size are made orthogonal together."""
        lr, mu = group["lr"], group["momentum"]
        by_size: dict[tuple[int, int], list[tuple[Any, Tensor]]] = {}
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            moment = state["momentum"].lerp_(parameter.grad, 1 - mu)
            whole = _whole(parameter.grad.lerp(moment, mu)).flatten(1)  # (out, in, ...) -> (m, n)
            by_size.setdefault((len(whole), whole.shape[1]), []).append((parameter, whole))
        for size, members in by_size.items():
            steps = orthogonal(torch.stack([whole for _, whole in members]))  # (K, m, n)
            for (parameter, _), step in zip(members, steps, strict=True):
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.sub_(_like(step.view(parameter.shape), parameter), alpha=lr * 0.2 * math.sqrt(max(size)))

    def _adamw(self, group: dict[str, Any], parameters: list[Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        moments = {key: [self.state[parameter][key] for parameter in parameters] for key in ("exp_avg", "exp_avg_sq", "step")}
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            moments["exp_avg"],
            moments["exp_avg_sq"],
            [],
            moments["step"],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _whole(value: Tensor) -> Tensor:
    """All of a matrix, of which this rank may hold a part."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _like(whole: Tensor, parameter: Tensor) -> Tensor:
    """A matrix that all ranks have, divided as a parameter is."""
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)
