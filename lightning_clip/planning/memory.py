"""Memory of a device by part."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from lightning_clip.model.space import SharedSpace
from lightning_clip.planning.loss import loss_bytes
from lightning_clip.planning.strategies import Sharding
from lightning_clip.planning.towers import TowerCost
from lightning_clip.training.averaged import use_trained

__all__ = ["Batch", "Memory", "State", "memory_of", "optimizer_bytes", "state_of"]


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the end of a forward pass, when most is held at once.

    Args:
        weights: parameters and buffers.
        gradients: of what is trained.
        optimizer: its state.
        activations: what forward keeps for backward, and the batch itself.
        cast_weights: half-precision copies that autocast keeps.
        loss: features, their gradients and similarities.
        gathered: features of the other devices.
        communication: a strategy's buckets or gathered blocks.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    cast_weights: float = 0
    loss: float = 0
    gathered: float = 0
    communication: float = 0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(vars(self).values()))


@dataclass(frozen=True)
class State:
    """Bytes and numbers of a model's state before a strategy divides it.

    Args:
        weights: bytes of parameters and buffers.
        gradients: bytes of the trained parameters' gradients.
        optimizer: bytes of the optimizer's state.
        parameters: number of parameters.
        largest_block: parameters of the largest repeated layer.
        outside_blocks: parameters outside any repeated layer.
        itemsize: bytes of a stored weight.
    """

    weights: int
    gradients: int
    optimizer: int
    parameters: int
    largest_block: int
    outside_blocks: int
    itemsize: int


@dataclass(frozen=True)
class Batch:
    """Batch sizes.

    Args:
        local: pairs per device and step.
        world_size: number of devices.
        micro: pairs encoded at a time, None for all.
        input_bytes: of one pair: uint8 pixels, token ids and mask.
        texts: of each pair, with which the images are compared.
    """

    local: int
    world_size: int
    micro: int | None
    input_bytes: int
    texts: int = 1


def state_of(model: SharedSpace, optimizer: Optimizer) -> State:
    """Adds up a model; its tensors may be fake."""
    blocks = [_numel(block.parameters()) for column in model.own_columns for block in model.tower(column).blocks()]
    parameters = _numel(model.parameters())
    return State(
        weights=sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        gradients=sum(weight.nbytes for weight in model.parameters() if weight.requires_grad),
        optimizer=optimizer_bytes(optimizer),
        parameters=parameters,
        largest_block=max(blocks, default=0),
        outside_blocks=parameters - sum(blocks),
        itemsize=model.logit_scale.itemsize,
    )


def optimizer_bytes(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state after its first step, known from a step on a parameter of six numbers.

    Raises:
        TypeError: its class cannot be built from its own settings.

    Examples:
        >>> optimizer_bytes(torch.optim.AdamW([nn.Parameter(torch.zeros(10, 10))]))  # two moments and a count of steps
        804
    """
    accepted = inspect.signature(type(optimizer)).parameters
    settings = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    total = 0
    for group in optimizer.param_groups:  # which may be treated each in its own way, as Muon's are
        own = {key: value for key, value in group.items() if key != "params"}
        per_dtype: dict[torch.dtype, tuple[int, int]] = {}
        for weight in group["params"]:
            if weight.dtype not in per_dtype:
                per_dtype[weight.dtype] = _probe(type(optimizer), settings, own, weight.dtype)
            per_element, constant = per_dtype[weight.dtype]
            total += per_element * weight.numel() + constant
    return total


def memory_of(
    state: State, towers: Iterable[TowerCost], batch: Batch, sharding: Sharding, *, embed_dim: int, mixed: bool
) -> Memory:
    """Memory per device by part.

    With micro-batches only one slice's activations live at a time.
    """
    towers = tuple(towers)
    count = batch.world_size
    cast_once = sharding.half_weights and mixed  # DeepSpeed: half-precision weights, float32 ones with the optimizer
    half = 0.5 if cast_once else 1.0
    weights, gradients = state.weights * half, state.gradients * half
    optimizer = state.optimizer + (state.gradients if sharding.half_weights else 0)
    loss, gathered = loss_bytes(batch.local, count, embed_dim, batch.texts)
    kept = sum(tower.activations for tower in towers) * (batch.micro or batch.local)
    fixed = sum(tower.fixed for tower in towers)
    # Strategies that cast the weights themselves leave nothing for autocast to cast.
    cast_weights = fixed if mixed and not (sharding.weights or cast_once) else 0
    return Memory(
        weights=weights / (count if sharding.weights else 1),
        gradients=gradients / (count if sharding.gradients else 1),
        optimizer=optimizer / (count if sharding.optimizer else 1),
        activations=kept + batch.local * batch.input_bytes + (0 if mixed else fixed),
        cast_weights=cast_weights,
        loss=loss,
        gathered=gathered,
        communication=_communication(state, sharding, 2 if mixed else state.itemsize),
    )


def _communication(state: State, sharding: Sharding, width: int) -> float:
    if sharding.buffers == "buckets":
        return state.gradients
    if sharding.buffers == "blocks":  # the root and two blocks at a time, each with its gradients
        return 2 * width * (state.outside_blocks + 2 * state.largest_block)
    return width * sharding.bucket_elements(state.parameters) if sharding.buffers == "deepspeed" else 0


def _probe(kind: type[Optimizer], settings: dict[str, Any], group: dict[str, Any], dtype: torch.dtype) -> tuple[int, int]:
    """Bytes of state per element of a parameter, and per parameter."""
    weight = nn.Parameter(torch.zeros(2, 3, dtype=dtype))
    weight.grad = torch.zeros_like(weight)
    optimizer: Any = kind([{"params": [weight], **group}], **settings)
    use_trained([optimizer])
    optimizer.step()
    states = [value for value in optimizer.state[weight].values() if isinstance(value, torch.Tensor)]
    shaped = [value for value in states if value.shape == weight.shape]
    return sum(value.element_size() for value in shaped), sum(value.nbytes for value in states if value.shape != weight.shape)


def _numel(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
