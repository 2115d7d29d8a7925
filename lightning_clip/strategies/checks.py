"""What a strategy must be for a `ClipModule`."""

from __future__ import annotations

from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from lightning_clip.core.errors import InputError
from lightning_clip.strategies.deepspeed import ClipDeepSpeedStrategy
from lightning_clip.strategies.fsdp2 import ClipFSDP2Strategy

__all__ = ["check_strategy"]


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
