"""What a strategy divides: which of weights, gradients and optimizer each device keeps whole."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_clip.core.errors import InputError, nearest

__all__ = ["Sharding", "sharding_of"]

_BUCKET = 200_000_000  # elements of Lightning's default DeepSpeed buckets


@dataclass(frozen=True)
class Sharding:
    """How a strategy keeps the state of training.

    Args:
        name: of the strategy.
        weights: True if each device keeps 1/N of the weights.
        gradients: likewise.
        optimizer: likewise.
        buffers: "buckets" (DDP's copy of the gradients), "blocks" (one block gathered ahead of another), "deepspeed" (its own
            buckets) or "" for none.
        half_weights: True if the weights are cast once under mixed precision and a float32 copy is kept with the optimizer.
    """

    name: str
    weights: bool = False
    gradients: bool = False
    optimizer: bool = False
    buffers: str = ""
    half_weights: bool = False

    def bucket_elements(self, parameters: int) -> int:
        """Elements of DeepSpeed's reduce and gather buckets."""
        return 2 * min(parameters, _BUCKET)


_DDP = Sharding("ddp", buffers="buckets")
_FSDP2 = Sharding("clip_fsdp2", weights=True, gradients=True, optimizer=True, buffers="blocks")


def _deepspeed(stage: int) -> Sharding:
    name = f"clip_deepspeed_stage_{stage}"
    buffers = "blocks" if stage == 3 else "deepspeed"
    return Sharding(name, stage >= 3, stage >= 2, stage >= 1, buffers, half_weights=True)


_KNOWN = {
    "ddp": _DDP,
    "clip_fsdp2": _FSDP2,
    "fsdp2": _FSDP2,
    **{f"clip_deepspeed_stage_{stage}": _deepspeed(stage) for stage in (1, 2, 3)},
    **{f"deepspeed_stage_{stage}": _deepspeed(stage) for stage in (1, 2, 3)},
}


def sharding_of(strategy: str, devices: int) -> Sharding:
    """The sharding of a Trainer strategy by name; "auto" is DDP on several devices.

    Raises:
        InputError: a strategy that is not supported by plan.

    Examples:
        >>> sharding_of("clip_deepspeed_stage_2", 8).gradients
        True
        >>> sharding_of("ddp_find_unused_parameters_true", 8).name
        'ddp'
    """
    if devices == 1 and (strategy == "auto" or strategy.startswith("ddp")):
        return Sharding("one device")
    if strategy == "auto" or (strategy.startswith("ddp") and strategy not in _KNOWN):
        return _DDP
    if strategy not in _KNOWN:
        raise InputError(f"strategy {strategy!r} is not supported by plan: {nearest(strategy, ['auto', *_KNOWN])}")
    return _KNOWN[strategy]
