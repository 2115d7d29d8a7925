"""The part of JSON Schema that the API is described in: one description documents a value and checks it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["Schema", "check", "fields"]

Schema = Mapping[str, Any]
_KINDS: dict[str, Any] = {"string": (str,), "integer": (int,), "number": (int, float), "array": (list,)}
_WORDS = {"string": "a text", "integer": "a whole number", "number": "a number", "array": "a list"}


def check(given: Any, schema: Schema, name: str) -> Any:
    """The value, if it is as described.

    Args:
        given: as JSON has it; text where a number is described is read as one, since addresses hold nothing else.
        schema: `type` and, as they apply, `minimum`, `maximum`, `maxLength`, `minItems`, `maxItems`, `items`.
        name: of the value, for the error.

    Raises:
        InputError: it is not; one line says what was expected.

    Examples:
        >>> check("12", {"type": "integer", "minimum": 1}, "limit")
        12
        >>> check([1, "a"], {"type": "array", "items": {"type": "integer"}}, "like")
        Traceback (most recent call last):
        lightning_clip.core.errors.InputError: like[1] must be a whole number, not 'a'
    """
    kind = schema["type"]
    value: Any = _number(given, kind) if isinstance(given, str) and kind in ("integer", "number") else given
    if not isinstance(value, _KINDS[kind]) or isinstance(value, bool):
        raise InputError(f"{name} must be {_WORDS[kind]}, not {_shown(value)}")
    if kind == "string" and len(value) > schema.get("maxLength", math.inf):
        raise InputError(f"{name} has {len(value):,} characters, more than {schema['maxLength']:,}: shorten it")
    if kind in ("integer", "number"):
        if abs(value) > 1e300 or value != value:  # infinity, what becomes it, and NaN
            raise InputError(f"{name} must be a finite number, not {_shown(value)}")
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        if not low <= value <= high:
            raise InputError(f"{name} {value} must be from {low} to {high}")
    if kind == "array":
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if not least <= len(value) <= most:
            raise InputError(f"{name} has {len(value):,} items, and must have {least:,} to {most:,}")
        return [check(one, schema["items"], f"{name}[{place}]") for place, one in enumerate(value)]
    return value


def fields(given: Mapping[str, Any], schemas: Mapping[str, Schema], what: str) -> dict[str, Any]:
    """Named values, checked; those that are not given have their `default`.

    Args:
        given: name -> value.
        schemas: name -> description; one without `default` must be given.
        what: the names belong to, for errors.

    Raises:
        InputError: an unknown name, one that is missing, or a wrong value.
    """
    for name in given:
        if name not in schemas:
            raise InputError(f"{what} has no {str(name)[:50]!r}: it has {', '.join(schemas) or 'nothing'}")
    found = {}
    for name, schema in schemas.items():
        if name in given:
            found[name] = check(given[name], schema, name)
        elif "default" in schema:
            found[name] = schema["default"]
        else:
            raise InputError(f"{what} needs {name!r}: {schema.get('description', _WORDS[schema['type']])}")
    return found


def _number(text: str, kind: str) -> Any:
    try:
        return int(text) if kind == "integer" else float(text)
    except ValueError:
        return text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
