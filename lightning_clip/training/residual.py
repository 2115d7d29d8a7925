"""The precision of the sum that runs through a tower's blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.encoders.base import Tower

__all__ = ["halve_residual"]


def halve_residual(tower: Tower) -> None:
    """Lets the sum of a tower's blocks be bfloat16 under an autocast to it, as open_clip's is; elsewhere nothing changes.

    It begins in float32, since positions are added to it in float32, and each block would read and write twice
    as much. In float16 the sum of a deep tower could overflow.

    Args:
        tower: whose `blocks()` follow one another.
    """
    if blocks := tower.blocks():
        blocks[0].register_forward_pre_hook(_in_autocast)


def _in_autocast(block: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
    hidden, *others = arguments or (None,)
    if not isinstance(hidden, Tensor) or not hidden.is_floating_point():
        return None
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or torch.get_autocast_dtype(kind) != torch.bfloat16:
        return None
    return hidden.to(torch.bfloat16), *others
