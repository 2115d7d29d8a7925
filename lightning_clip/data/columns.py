"""Columns of a batch beyond image and text: raw values of B samples to tensors whose first dimension is B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import Columns

__all__ = ["Collate", "collate_column", "columns_of", "is_view", "no_column", "stack_column", "view_names"]

# What a tower declares for its column; None stacks the values.
Collate = Callable[[list[Any]], Any]
_STAYS = (torch.bool, torch.uint8)  # masks, and pixels, which the model normalises on the device


def stack_column(name: str, values: Sequence[Any]) -> Tensor:
    """Numbers, arrays or tensors of one shape, one per sample, as one tensor.

    Args:
        name: of the column, for errors.
        values: one per sample. Floats of any width become float32, integers int64; booleans and uint8 stay.

    Returns:
        (B, ...), the values along the first dimension; (0,) for no values.

    Raises:
        InputError: values of different shapes, or what is no number.

    Examples:
        >>> stack_column("gps", [(48.9, 2.4), (52.5, 13.4)]).shape
        torch.Size([2, 2])
    """
    tensors = _as_tensors(name, values)
    shapes = list(dict.fromkeys(tuple(tensor.shape) for tensor in tensors))
    if len(shapes) > 1:
        named = ", ".join(map(str, shapes[:4])) + (", ..." if len(shapes) > 4 else "")
        raise InputError(
            f"column {name!r} has values of different shapes in one batch, {named}: bring them to one shape in the source, or "
            "pad them in the tower's collate()"
        )
    if not tensors:
        return torch.empty(0)
    if len({tensor.dtype for tensor in tensors}) > 1:  # 1 beside 1.5, as JSON has numbers: the wider kind
        wide = torch.float32 if any(tensor.is_floating_point() for tensor in tensors) else torch.int64
        tensors = [tensor.to(wide) for tensor in tensors]
    stacked = torch.stack(tensors)  # B x (...) -> (B, ...)
    if stacked.dtype in _STAYS or stacked.is_complex():
        return stacked
    return stacked.float() if stacked.is_floating_point() else stacked.long()


def _as_tensors(name: str, values: Sequence[Any]) -> list[Tensor]:
    try:
        return [_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = ", ".join(sorted({type(value).__name__ for value in values}))
        raise InputError(
            f"column {name!r} has values of type {kinds}, which cannot be stacked ({error}): give numbers or arrays, or let "
            "the tower's collate() read them"
        ) from error


def _tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    array = np.array(value)
    return torch.from_numpy(array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")))


def collate_column(name: str, collate: Collate | None, values: list[Any]) -> Any:
    """What a tower's `collate` makes of a column, checked to have one row per sample.

    Args:
        name: of the column.
        collate: list of B raw values -> a tensor (B, ...), or tuples, lists and mappings of such; None stacks the values.
        values: B of them.

    Raises:
        InputError: values that cannot be collated, or a result of another first dimension.

    Examples:
        >>> collate_column("gps", None, [(48.9, 2.4), (52.5, 13.4)]).shape
        torch.Size([2, 2])
    """
    if collate is None:
        return stack_column(name, values)
    try:
        found = collate(values)
    except InputError as error:
        raise InputError(f"column {name!r}: {error}") from error
    for tensor in _tensors(found):
        if tensor.ndim == 0 or len(tensor) != len(values):
            raise InputError(
                f"column {name!r}: collate() gave a tensor of shape {tuple(tensor.shape)} for {len(values)} samples; its first "
                "dimension must be the samples'"
            )
    return found


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def columns_of(pair: Pair) -> list[str]:
    """Names of the columns that a pair has a value for.

    Examples:
        >>> columns_of(Pair(None, ("a dog",), "1", columns={"gps": (48.9, 2.4)}))
        ['gps', 'text']
    """
    stored = isinstance(pair.columns, Columns)  # these have no empty values, and asking would read their files
    names = [name for name in pair.columns if stored or pair.columns[name] is not None]
    return sorted([*names, *["image"] * (pair.image is not None), *["text"] * bool(pair.captions)])


def no_column(name: str) -> str:
    """The reason for which a sample without a column is skipped."""
    return f"no column {name!r}"


def is_view(name: str) -> bool:
    """Whether a column is a further view of the image, which the image transform makes.

    Examples:
        >>> is_view("view2"), is_view("viewpoint")
        (True, False)
    """
    return name.startswith("view") and name[4:].isdigit()


def view_names(count: int) -> list[str]:
    """Names of the views that an image transform made beside the first.

    Examples:
        >>> view_names(2)
        ['view2', 'view3']
    """
    return [f"view{number}" for number in range(2, count + 2)]
