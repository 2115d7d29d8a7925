"""Sharding with FSDP2: the weights of a `SharedSpace`, spread over the ranks, equal to rank 0's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor, distribute_tensor

from lightning_clip.model.space import SharedSpace

__all__ = ["fill", "gathered_weights", "shard_model"]


def shard_model(model: SharedSpace, mesh: DeviceMesh, dtype: torch.dtype, device: torch.device, cpu_offload: bool) -> None:
    """Shards each block of all towers, then what is left of the towers and the heads, what objectives and
    subclasses have added (in full precision), then the model, in place.

    Ranks other than the first may bring weights on the meta device: they never hold the whole model. All ranks end with
    the first one's weights, as under DDP.

    Args:
        model: towers whose `blocks()` are the units of communication.
        mesh: of one dimension (shard) or two (replicate, shard).
        dtype: in which weights are gathered and multiplied; gradients are reduced in float32.
        device: of this rank.
        cpu_offload: keep shards, gradients and optimizer on the CPU.
    """
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items() if dist.get_rank() == 0}
    mixed = dtype != torch.float32
    offload = CPUOffloadPolicy(pin_memory=device.type != "cpu") if cpu_offload else OffloadPolicy()
    precise = MixedPrecisionPolicy(cast_forward_inputs=False)
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32) if mixed else precise
    for part in _parts(model):
        fully_shard(part, mesh=mesh, mp_policy=policy, offload_policy=offload)
    for part in _others(model):
        fully_shard(part, mesh=mesh, mp_policy=precise, offload_policy=offload)
    # The temperature is all that is left: in half precision it would lose its digits.
    fully_shard(model, mesh=mesh, mp_policy=precise, offload_policy=offload)
    for method in ("encode", "encode_image", "encode_text"):
        register_fsdp_forward_method(model, method)
    _materialize(model, torch.device("cpu") if cpu_offload else device)
    _broadcast(model, weights)


def fill(weights: Tensor, value: Tensor) -> None:
    """Sets weights of any shape, whole or spread over the ranks, to a value that each rank has whole.

    Spread ones take the first rank's value.
    """
    if not isinstance(weights, DTensor):
        weights.copy_(value)
        return
    mesh = weights.device_mesh
    parts = distribute_tensor(value.contiguous().to(mesh.device_type), mesh, weights.placements)
    weights.to_local().copy_(parts.to_local())  # which offloading may have put elsewhere


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Each rank holds all weights meanwhile, so that ranks may make different numbers of passes (evaluation)."""
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _parts(model: SharedSpace) -> Iterator[nn.Module]:
    """The units of communication, innermost first."""
    for tower in (model.tower(column) for column in model.own_columns):
        yield from _without_nesting(tower.blocks())
        yield tower
    for head in (model.head(column) for column in model.own_columns):
        if any(True for _ in head.parameters()):
            yield head


def _others(model: SharedSpace) -> Iterator[nn.Module]:
    """What a subclass has added, by its parts that are called: lists and mappings of modules have no forward."""
    waiting = list(model.parts().values())
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, nn.ModuleList | nn.ModuleDict):
            waiting += part.children()
        elif any(True for _ in part.parameters()):
            yield part


def _without_nesting(blocks: Sequence[nn.Module]) -> list[nn.Module]:
    return [block for block in blocks if any(True for _ in block.parameters())]


def _materialize(model: nn.Module, device: torch.device) -> None:
    """Memory for what is on the meta device; its values come with the broadcast."""
    for module in model.modules():
        own: list[Tensor] = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(value.is_meta for value in own):
            module.to_empty(device=device, recurse=False)


def _broadcast(model: nn.Module, weights: dict[str, Any]) -> None:
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
    set_model_state_dict(model, weights, options=options)
    for buffer in model.buffers():  # also those that no checkpoint holds, such as tables of positions
        dist.broadcast(buffer, 0)
