"""Values of a column as one tensor: what a tower's `collate` does unless it says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = ["stack_values"]


def stack_values(values: Sequence[Any], keep: Sequence[torch.dtype] = ()) -> Tensor:
    """Numbers, arrays or tensors of one shape, one per sample, as one tensor.

    Args:
        values: B of them; floats of any width become float32, integers and booleans int64.
        keep: kinds of tensors that stay as they are.

    Returns:
        (B, ...); (0,) for no values.

    Raises:
        InputError: values of different shapes, or what is no number.

    Examples:
        >>> stack_values([(48.9, 2.4), (52.5, 13.4)]).shape
        torch.Size([2, 2])
    """
    tensors = _tensors(values)
    if not tensors:
        return torch.empty(0)
    shapes = list(dict.fromkeys(tuple(tensor.shape) for tensor in tensors))
    if len(shapes) > 1:
        named = ", ".join(str(shape) for shape in shapes[:4]) + (", ..." if len(shapes) > 4 else "")
        raise InputError(
            f"values of one batch have different shapes {named}: bring them to one shape in the source, or pad them in the "
            "tower's collate()"
        )
    stacked = torch.stack(tensors)  # B x (...) -> (B, ...)
    if stacked.dtype in keep:
        return stacked
    return stacked.float() if stacked.is_floating_point() else stacked.long()


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    try:
        return [torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise InputError(
            f"values of type {kinds} cannot be stacked ({error}): give numbers or arrays of one shape, or override the tower's "
            "collate()"
        ) from error
