"""How a model is run: settings that change speed and memory but not the result."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, mapping
from lightning_clip.model.space import SharedSpace
from lightning_clip.training.compiling import compile_tower
from lightning_clip.training.residual import halve_residual

__all__ = ["ExecutionSettings", "prepare"]

_GUARDS = ("stop", "skip", "ignore")


@dataclass(frozen=True)
class ExecutionSettings:
    """How a `ClipModule` is run.

    Args:
        compile: compile all towers with torch.compile, block by block where they have blocks; names in checkpoints stay. "auto"
            does so at the start of a training on a CUDA device where it pays, see `lightning_clip.training.compiling.pays`.
        checkpoint: columns ("image", "text", ...) whose towers' blocks keep no activations and compute them again in backward.
        channels_last: lay images out as (B, H, W, C), which convolutions of many devices like.
        text_chunks: the most chunks that captions of a batch are sorted into by length; 1 pads all to the longest.
        float32_residual: keep the sum that runs through a tower's blocks in float32 under bfloat16, too, see `halve_residual`.
        non_finite: on a loss that is NaN or infinite "stop" with an error, "skip" the step, or "ignore" it. "skip"
            waits for the device in each step; "stop" asks after the step before on an accelerator.
        rank_timeout: seconds > 0 that ranks wait for one that has fallen silent, before the run ends with its name.

    Raises:
        InputError: a value that is none of these.
    """

    compile: bool | str = "auto"
    checkpoint: tuple[str, ...] = ()
    channels_last: bool = False
    text_chunks: int = 4
    float32_residual: bool = False
    non_finite: str = "stop"
    rank_timeout: float = 600.0

    def __post_init__(self) -> None:
        if self.non_finite not in _GUARDS:
            raise InputError(f"unknown execution.non_finite {self.non_finite!r}: {nearest(self.non_finite, _GUARDS)}")
        if not isinstance(self.compile, bool) and self.compile != "auto":
            raise InputError(f"execution.compile {self.compile!r} must be true, false or auto")
        if self.text_chunks < 1:
            raise InputError(f"execution.text_chunks {self.text_chunks} must be at least 1")
        if not 0 < self.rank_timeout < 1e8:
            raise InputError(f"execution.rank_timeout {self.rank_timeout} must be a number of seconds above 0 and below 1e8")

    @classmethod
    def of(cls, value: ExecutionSettings | Mapping[str, Any] | None) -> ExecutionSettings:
        """Settings from settings, a mapping, or None for the defaults."""
        if isinstance(value, cls):
            return value
        return built(cls, mapping(value, "execution"), "execution")

    def check_towers(self, columns: Collection[str]) -> None:
        """Refuses names in `checkpoint` that are none of these columns, which have towers of their own."""
        for name in self.checkpoint:
            if name not in columns:
                raise InputError(f"unknown tower {name!r} in execution.checkpoint: {nearest(name, columns)}")


def prepare(model: SharedSpace, settings: ExecutionSettings) -> None:
    """Applies the settings to a model in place; parameters and their names stay as they are."""
    model.text_chunks = settings.text_chunks
    towers = {column: model.tower(column) for column in model.own_columns}
    settings.check_towers(towers)
    for name in settings.checkpoint:
        towers[name].checkpoint_blocks()
    if settings.channels_last and "image" in towers:
        towers["image"].to(memory_format=torch.channels_last)
        model.channels_last = True
    if not settings.float32_residual:
        for tower in towers.values():
            halve_residual(tower)
    if settings.compile is True:
        for tower in towers.values():
            compile_tower(tower)
