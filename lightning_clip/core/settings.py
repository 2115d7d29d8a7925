"""Settings from a recipe, checked: an error names the setting."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from functools import partial
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from lightning_clip.core.errors import InputError, nearest

__all__ = ["built", "check_kinds", "check_known", "declared", "expanded", "in_range", "mapping", "plain"]

T = TypeVar("T")
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


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
    """A dataclass from its settings, lists as tuples; an InputError for a setting it has not or a value of another kind."""
    check_known(given, [item.name for item in fields(cls)], where)  # type: ignore[arg-type]
    kinds = get_type_hints(cls)
    check_kinds(given, kinds, where)
    return cls(**{key: _tuple_or_same(item, kinds[key]) for key, item in given.items()})


def check_kinds(given: Mapping[str, Any], kinds: Mapping[str, Any], where: str) -> None:
    """Refuses values of another kind than declared; what has no declaration is left to whoever takes it."""
    for key, value in given.items():
        if key in kinds and not _is_of(value, kinds[key]):
            raise InputError(f"{where}.{key} {value!r} must be {_in_words(kinds[key])}")


def declared(factory: Any) -> dict[str, Any]:
    """The kinds of what a class or function takes, as far as they can be told."""
    called = factory.func if isinstance(factory, partial) else factory
    try:
        return get_type_hints(called.__init__ if isinstance(called, type) else called)  # type: ignore[misc]
    except (NameError, TypeError):  # names that only a type checker imports
        return {}


def expanded(name: str) -> str:
    """A folder's name with `~` expanded; names of a hub stay as they are."""
    return str(Path(name).expanduser()) if name.startswith("~") else name


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


def _tuple_or_same(value: Any, kind: Any) -> Any:
    """Lists as tuples, and a single text where several may stand as one of them, not as its letters."""
    if isinstance(value, str) and tuple[str, ...] in (kind, *get_args(kind)):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of the kind that is declared; kinds without words are left to the class itself."""
    if get_origin(kind) is UnionType:
        return any(_is_of(value, choice) for choice in get_args(kind))
    if get_origin(kind) is tuple and Ellipsis not in get_args(kind):
        kinds = get_args(kind)
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(_is_of, value, kinds))
    if kind in (tuple[int, ...], tuple[float, ...]):
        return isinstance(value, list | tuple) and all(_is_of(item, get_args(kind)[0]) for item in value)
    if kind is bool:
        return isinstance(value, bool)
    if kind in (int, float):  # a flag is a number in Python, and never meant as one
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if kind is str:  # a path may be an object
        return isinstance(value, str | PathLike)
    return kind not in _WORDS or isinstance(value, kind)


def _in_words(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return " or ".join(_in_words(choice) for choice in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        if Ellipsis in kinds:
            return "a list of numbers"
        return f"a list of {len(kinds)} {'names' if set(kinds) == {str} else 'numbers'}"
    return _WORDS[kind]
