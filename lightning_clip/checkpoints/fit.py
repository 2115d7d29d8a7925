"""Whether weights fit a model; one error lists the differences in groups."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = ["check_finite_weights", "check_fit", "differences", "groups"]

_SHOWN = 6


_PRETRAINED = (
    "They belong to another architecture or to other settings: name the architecture that they were trained with, and leave "
    "out what changes the towers"
)


def check_fit(name: str, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], remedy: str = _PRETRAINED) -> None:
    """Compares names and shapes.

    Args:
        name: of the weights, for the message.
        wanted: what the model has, tensors of any shape.
        given: what the source has.
        remedy: the end of the message.

    Raises:
        InputError: weights that are missing, left over, or of another shape.
    """
    own, others = ({key: tuple(value.shape) for key, value in weights.items()} for weights in (wanted, given))
    if text := differences(own, others):
        raise InputError(f"the weights of {name!r} do not fit: {text}. {remedy}")


def differences(wanted: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> str:
    """What differs between the shapes of a model's weights and of others, in groups; empty if nothing does.

    Examples:
        >>> differences({"a.weight": (2, 3), "b": (1,)}, {"a.weight": (2, 4), "c": (1,)})
        '1 of another shape: a.weight (a.weight is (2, 4), not (2, 3)); 1 missing: b; 1 unexpected: c'
    """
    parts = []
    if shapes := [key for key, shape in given.items() if key in wanted and tuple(wanted[key]) != tuple(shape)]:
        example = f"{shapes[0]} is {tuple(given[shapes[0]])}, not {tuple(wanted[shapes[0]])}"
        parts.append(f"{len(shapes)} of another shape: {groups(shapes)} ({example})")
    if missing := wanted.keys() - given.keys():
        parts.append(f"{len(missing)} missing: {groups(missing)}")
    if unexpected := given.keys() - wanted.keys():
        parts.append(f"{len(unexpected)} unexpected: {groups(unexpected)}")
    return "; ".join(parts)


def check_finite_weights(name: str, weights: Mapping[str, Tensor]) -> None:
    """Refuses weights that would make every feature NaN.

    Args:
        name: of their source, for the message.
        weights: of a model.

    Raises:
        InputError: some are NaN or infinite.
    """
    broken = [key for key, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"weights of {name!r} are NaN or infinite: {groups(broken)}. The run that wrote them has diverged: take an earlier "
            "checkpoint, or train with a lower learning rate"
        )


def groups(keys: Iterable[str]) -> str:
    """Names of weights with layers counted instead of listed.

    Examples:
        >>> groups([f"blocks.{layer}.{part}.bias" for layer in range(12) for part in ("norm1", "norm2")] + ["cls_token"])
        'blocks.*.norm1.bias (12), blocks.*.norm2.bias (12), cls_token'
    """
    counts: dict[str, int] = {}
    for key in sorted(keys):
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "*", key)
        counts[pattern] = counts.get(pattern, 0) + 1
    listed = [f"{pattern} ({count})" if count > 1 else pattern for pattern, count in counts.items()]
    more = f" and {len(listed) - _SHOWN} more kinds" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more
