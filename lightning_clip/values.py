"""Values from a recipe: mappings and numbers arrive, checked ones leave, or an error that names the setting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lightning_clip.errors import InputError, nearest

__all__ = ["built", "check_known", "in_range", "mapping", "plain"]

T = TypeVar("T")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping, empty for None; an InputError for anything else."""
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"{where} {value!r} must be a mapping of settings")
    return dict(value or {})


def check_known(given: Iterable[Any], known: Collection[str], where: str) -> None:
    """Raises an InputError that names the nearest setting there is, unless all are known."""
    for key in given:
        if key not in known:
            raise InputError(f"{where} has no setting {key!r}: {nearest(str(key), known)}")


def built(cls: type[T], given: dict[str, Any], where: str) -> T:
    """A dataclass from its settings, lists as tuples; an InputError for a setting it has not."""
    check_known(given, [item.name for item in fields(cls)], where)  # type: ignore[arg-type]
    return cls(**{key: tuple(item) if isinstance(item, list) else item for key, item in given.items()})


def in_range(
    where: str,
    value: Any,
    low: float,
    high: float = float("inf"),
    *,
    whole: bool = False,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raises an InputError that says the value and its bounds, unless it is a number in them."""
    kinds = int if whole else int | float
    good = isinstance(value, kinds) and not isinstance(value, bool)
    good = good and (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
    if not good:
        bounds = f"{'>' if open_low else '>='} {low:g}"
        bounds += "" if high == float("inf") else f" and {'<' if open_high else '<='} {high:g}"
        raise InputError(f"{where} {value!r} must be a {'whole number' if whole else 'number'} {bounds}")


def plain(value: Any) -> Any:
    """Tuples as lists, all the way down: what YAML and a checkpoint hold."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
