"""Settings that may be secrets (`storage_options`: tokens, keys, headers), and what is shown in their place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["HIDDEN", "OPTIONS", "checked_options", "hidden"]

HIDDEN = "***"
OPTIONS = "storage_options"
_HARMLESS = ("endpoint_url", "profile", "project", "region_name", "repo_type", "revision")
_LARGEST = 100_000  # of numbers that are sizes or seconds, and no password
_SHORTEST = 8  # characters of an environment variable that can be taken for a secret's
_SCHEME = re.compile(r"([A-Za-z]+ )?")  # "Bearer " before a token in a header


def hidden(value: Any) -> Any:
    """A copy of settings, of any depth, in which no `storage_options` show a secret.

    A text that comes from an environment variable becomes `${oc.env:NAME}` again, any other one `***`; small numbers, flags
    and what is harmless stay.

    Examples:
        >>> hidden({"name": "s3://x/0.tar", "storage_options": {"key": "AKIA", "anon": False}})
        {'name': 's3://x/0.tar', 'storage_options': {'key': '***', 'anon': False}}
    """
    if isinstance(value, Mapping):
        return {key: _hidden_options(item) if key == OPTIONS else hidden(item) for key, item in value.items()}
    return [hidden(item) for item in value] if isinstance(value, list | tuple) else value


def checked_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A copy of `storage_options` that can be used.

    Raises:
        InputError: they are no mapping, or hold `***` in the place of a secret, as a run's config.yaml does.
    """
    if options is not None and not isinstance(options, Mapping):
        kind = type(options).__name__
        raise InputError(f"{OPTIONS} is of kind {kind}: give a mapping, such as {{token: '${{oc.env:TOKEN}}'}}")
    if (place := _place_of_hidden(options or {})) is not None:
        raise InputError(
            f"{OPTIONS}.{place} is {HIDDEN!r}, which a saved recipe has in the place of a secret: give it by an environment "
            "variable, '${oc.env:NAME}'"
        )
    return dict(options or {})


def _hidden_options(value: Any, key: str = "") -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden_options(item, str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden_options(item, key) for item in value]
    if value is None or isinstance(value, bool) or (key in _HARMLESS and "@" not in str(value)):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST:
        return value
    text = str(value)
    for name, known in sorted(os.environ.items(), key=lambda entry: -len(entry[1])):
        if len(known) >= _SHORTEST and text.endswith(known) and _SCHEME.fullmatch(before := text.removesuffix(known)):
            return f"{before}${{oc.env:{name}}}"
    return text if text.startswith("${") else HIDDEN


def _place_of_hidden(options: Mapping[str, Any]) -> str | None:
    for key, item in options.items():
        if isinstance(item, Mapping):
            if (inner := _place_of_hidden(item)) is not None:
                return f"{key}.{inner}"
        elif isinstance(item, str) and HIDDEN in item:
            return str(key)
    return None
