"""What a strategy must be for a `ClipModule`."""

from __future__ import annotations

import os

import lightning.pytorch as pl
import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from lightning_clip.core.errors import InputError
from lightning_clip.strategies.deepspeed import ClipDeepSpeedStrategy
from lightning_clip.strategies.fsdp2 import ClipFSDP2Strategy

__all__ = ["check_launch", "check_strategy"]


def check_strategy(strategy: Strategy) -> None:
    """Refuses sharding strategies that do not know where a two-tower model is cut.

    Raises:
        InputError: FSDP of the first kind, or Lightning's ModelParallelStrategy or DeepSpeedStrategy as they are.
    """
    if isinstance(strategy, DeepSpeedStrategy) and not isinstance(strategy, ClipDeepSpeedStrategy):
        raise InputError(
            f"strategy {type(strategy).__name__} would not keep the temperature below its limit: "
            "use strategy 'clip_deepspeed_stage_1', '_2' or '_3', which do"
        )
    known = isinstance(strategy, ClipFSDP2Strategy)
    if isinstance(strategy, FSDPStrategy) or (isinstance(strategy, ModelParallelStrategy) and not known):
        raise InputError(
            f"strategy {type(strategy).__name__} would not shard the two towers by their blocks and cannot run them alone: "
            "use strategy 'clip_fsdp2', which does (torch's FSDP2, the same memory)"
        )


def check_launch(trainer: pl.Trainer) -> None:
    """Refuses processes of one launch that would each train a model of their own.

    Raises:
        InputError: torchrun started more processes than the Trainer brings together.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if dist.is_available() and dist.is_torchelastic_launched() and started != trainer.world_size:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", started))
        raise InputError(
            f"torchrun started {started} processes, but the Trainer is set to {trainer.world_size}, so that each would train a "
            f"model of its own: set devices={here}, num_nodes={max(1, started // here)} and strategy 'ddp' (--trainer.devices="
            f"{here} --trainer.num_nodes={max(1, started // here)} --trainer.strategy=ddp)"
        )
