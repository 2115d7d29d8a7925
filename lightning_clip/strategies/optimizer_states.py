"""Optimizer states between strategies: one process numbers parameters by its groups, a sharded optimizer names them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from lightning_clip.core.errors import InputError

__all__ = ["named_state", "numbered_state", "parameter_names"]


def parameter_names(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names in the order in which the optimizer numbers its parameters: group by group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def named_state(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Replaces numbers by names.

    Raises:
        InputError: the state belongs to another number of parameters.
    """
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    if numbers and isinstance(numbers[0], str):
        return state
    if len(numbers) != len(names):
        raise InputError(
            f"the checkpoint's optimizer has {len(numbers)} parameters, the model's {len(names)}: "
            "resume with the model and the frozen parts that wrote it, or load its weights alone"
        )
    return _renamed(state, dict(zip(numbers, names, strict=True)))


def numbered_state(state: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Replaces names by numbers, as an optimizer of one process has them."""
    return _renamed(state, {name: number for number, name in enumerate(names)})


def _renamed(state: dict[str, Any], keys: dict[Any, Any]) -> dict[str, Any]:
    groups = [{**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {keys[key]: value for key, value in state["state"].items()}, "param_groups": groups}
