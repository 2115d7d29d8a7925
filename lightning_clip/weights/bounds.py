"""Sizes in settings, held against the shapes of the weights before memory is taken: a file may claim a tower of any width."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightning_clip.checkpoints.fit import differences, groups
from lightning_clip.core.errors import InputError, UnknownName
from lightning_clip.core.tensor_count import TooManyTensors, at_most_tensors

__all__ = ["Shapes", "check_sizes", "shapes_of"]

Shapes = Mapping[str, Sequence[int]]
Path = tuple[str, ...]
_DEPTHS = ("depth", "depths", "layers", "num_hidden_layers", "num_layers", "n_layers")
_SIDES = {"image": ("image", "vision", "visual"), "text": ("text", "bert")}
_ROOM = 1 << 24  # numbers up to here are no danger whatever they are: ids, sizes of pictures, bases of rotary positions
_REMEDY = "Settings and weights must come from one model"
_SLACK = 1 << 20  # values that a model may have more than its weights: what lacks is told by name when they are loaded


def shapes_of(weights: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of what is a tensor."""
    return {key: tuple(value.shape) for key, value in weights.items() if isinstance(value, torch.Tensor)}


def check_sizes(
    file: str,
    settings: Mapping[str, Any],
    weights: Shapes,
    build: Callable[[], nn.Module],
    named: Callable[[nn.Module], Shapes] | None = None,
) -> None:
    """Builds a model without memory, and compares what it would have with what the weights are.

    Args:
        file: that holds the settings, for messages.
        settings: by which the model is built, nested.
        weights: shapes by name.
        build: makes the model from them; called while tensors have no memory.
        named: shapes of the weights under the names of the model that was built; None where they are the same.

    Raises:
        InputError: a setting that no model can have, or that is another one than the weights were trained with; it is named.
    """
    _check_numbers(file, settings, weights)
    model = _built(file, settings, weights, build)
    if model is None:
        return
    own, given = shapes_of(model.state_dict()), weights if named is None else named(model)
    scalars = {key for key, shape in own.items() if _count(shape) == 1 == _count(given.get(key, ()))}  # () or (1,): a scale
    wrong = [key for key, shape in own.items() if key in given and tuple(given[key]) != shape and key not in scalars]
    for key in wrong:  # the one that a setting stands for as it is
        if blamed := _setting_of(settings, key, own[key], given[key]):
            raise InputError(
                f"{file!r} says {_text(*blamed)}, but its weights have another size: {key} is {tuple(given[key])}, and "
                f"would be {own[key]}. They do not fit: {differences(own, given)}. {_REMEDY}"
            )
    total, there = sum(map(_count, own.values())), sum(map(_count, weights.values()))
    if total > 1.1 * there + _SLACK:  # anything smaller is told in full when the weights are loaded
        raise InputError(
            f"{file!r} has settings of a model of {total:,} values, and its weights hold {there:,}. They do not fit: "
            f"{differences(own, given)}. {_REMEDY}"
        )


def _check_numbers(file: str, settings: Mapping[str, Any], weights: Shapes) -> None:
    """Refuses depths and sizes that are too large even to be tried."""
    total = max(sum(map(_count, weights.values())), _ROOM)
    for path, value in _numbers(settings):
        if value > len(weights) and _is_depth(path):
            raise InputError(
                f"{file!r} says {_text(path, value)}, but its weights are {len(weights)} tensors: {groups(weights)}. {_REMEDY}"
            )
        if abs(value) > total:
            raise InputError(f"{file!r} says {_text(path, value)}, more than its weights have values ({total:,}): {_REMEDY}")


def _built(file: str, settings: Mapping[str, Any], weights: Shapes, build: Callable[[], nn.Module]) -> nn.Module | None:
    """The model without memory; None where it computes while it is built, and so needs some."""
    try:
        with torch.device("meta"), at_most_tensors(2 * len(weights) + 200):
            return build()
    except TooManyTensors:
        depths = [(path, value) for path, value in _numbers(settings) if _is_depth(path)]
        says = _text(*max(depths, key=lambda entry: entry[1])) if depths else "settings of more layers"
        raise InputError(
            f"{file!r} says {says}, but its weights are {len(weights)} tensors: {groups(weights)}. {_REMEDY}"
        ) from None
    except UnknownName:  # of a plug-in, perhaps, which its reader names
        raise
    except InputError as error:
        raise InputError(f"{file!r}: {error}") from error
    except Exception as error:  # of several libraries, on values of every kind
        if "meta" in str(error) or isinstance(error, NotImplementedError):
            return None
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{file!r} has settings that build no model ({type(error).__name__}: {reason}): write it again"
        ) from error


def _setting_of(settings: Mapping[str, Any], key: str, wanted: Sequence[int], given: Sequence[int]) -> tuple[Path, int] | None:
    """The setting behind a tensor of another shape: one of its sizes, in the part for its tower if it stands there too."""
    sizes = [one for one, other in zip(wanted, given, strict=False) if one != other] or list(wanted)
    side = next((side for side, words in _SIDES.items() if any(word in key for word in words)), None)
    found = [(path, value) for path, value in _numbers(settings) if value in sizes and value not in given]
    words = _SIDES.get(side or "", ())
    return next((entry for entry in found if any(word in ".".join(entry[0]) for word in words)), found[0] if found else None)


def _numbers(settings: Any, path: Path = ()) -> Iterator[tuple[Path, int]]:
    """Every whole number in nested settings, with where it stands."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from _numbers(value, (*path, str(key)))
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _numbers(value, path)
    elif isinstance(settings, int) and not isinstance(settings, bool):
        yield path, settings


def _is_depth(path: Path) -> bool:
    return bool(path) and path[-1] in _DEPTHS


def _text(path: Path, value: int) -> str:
    return f"{'.'.join(path)} {value}"


def _count(shape: Sequence[int]) -> int:
    """Values of a tensor of that shape."""
    return torch.Size(shape).numel()
