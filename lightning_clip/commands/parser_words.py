"""Errors of jsonargparse in plain words: a message of many lines arrives, one line with the setting's name leaves."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Collection

from lightning_clip.commands.usual_names import meant_setting
from lightning_clip.core.errors import InputError, nearest

__all__ = ["SettingError", "arguments_of", "explained_setting"]

_KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'collections.abc.Iterable'>": "a list",
}
_OTHER_FILES = {
    "sets": "a suite for lightning-clip evaluate --suite",
    "filters": "a curation for lightning-clip data curate --config",
    "duplicates": "a curation for lightning-clip data curate --config",
    "balance": "a curation for lightning-clip data curate --config",
}
_PRECISIONS = {"fp16": "16-mixed", "float16": "16-true", "half": "16-true", "bfloat16": "bf16-true", "amp": "bf16-mixed"}
_LISTED = 12  # settings that a line lists where none is near
_OF_ANY_CLASS = ("Not a valid subclass", "Subclass types expect", "a class path (str)", "a dict with", "a dict without")


class SettingError(InputError):
    """A setting of a recipe or an option that there is not, or whose value is of another kind.

    Args:
        message: says so.
        key: of the setting, with its sections.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def explained_setting(message: str, known: Collection[str]) -> InputError:
    """The error to raise for a message of the parser.

    Args:
        message: jsonargparse's.
        known: all settings of the command, with their sections.
    """
    if re.search(r"arguments are required: \w+\.model$", message):
        return InputError(
            "no model: give a recipe, --config RECIPE (see lightning-clip recipes), or at least --model=ClipModule"
        )
    if found := re.search(r"does not accept option '([\w.]+)'", message):
        return _unknown_key(found[1], known)
    if found := re.search(r"unrecognized arguments: (--([\w.-]+).*)", message, re.S):
        meant = meant_setting(found[2], known)
        return InputError(f"unrecognized arguments: {found[1]}" + (f", did you mean --{meant}?" if meant else ""))
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    if found := re.search(r"class_path '([\w.]+)':\s+Option '(\w+)' is not accepted", message):
        return _unknown_argument(keys, found[1], found[2])
    if found := re.search(r"class_path '([\w.]+)\.(\w+)':\s+module '[\w.]+' has no attribute", message):
        hint = _nearest_of_module(found[1], found[2])
        return SettingError(f"{'.'.join(keys)}: there is no class {found[2]!r} in {found[1]}{hint}", ".".join(keys))
    return _wrong_value(keys, message) or InputError(_cause_of_union(message))


def arguments_of(class_path: str) -> set[str]:
    """The arguments of a class and of those it inherits from.

    Args:
        class_path: its module and name.
    """
    module, _, name = class_path.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    signatures = [inspect.signature(base.__init__) for base in found.__mro__ if "__init__" in vars(base)]  # type: ignore[misc]
    return {key for signature in signatures[:2] for key in signature.parameters} - {"self", "args", "kwargs", "arguments"}


def _unknown_key(key: str, known: Collection[str]) -> SettingError:
    """A key of a recipe that no setting has."""
    section, _, name = key.rpartition(".")
    first, sections = key.partition(".")[0], sorted({item.partition(".")[0] for item in known})
    if first not in sections:
        if first in _OTHER_FILES:
            return SettingError(f"{first!r} is no part of a recipe for the Trainer: this is {_OTHER_FILES[first]}", first)
        near = difflib.get_close_matches(first, sections, n=1)
        meant = near[0] if near else meant_setting(first, known)
        return SettingError(
            f"a recipe has no {first!r}" + (f", did you mean {meant!r}?" if meant else _listing(sections)), first
        )
    inside = [item.removeprefix(f"{section}.") for item in known if item.startswith(f"{section}.")]
    if near := difflib.get_close_matches(name, inside, n=1):
        return SettingError(f"{section} has no setting {name!r}, did you mean {near[0]!r}?", key)
    meant = meant_setting(key, known)
    return SettingError(f"{section} has no setting {name!r}" + (f", did you mean {meant}?" if meant else _listing(inside)), key)


def _listing(names: Collection[str]) -> str:
    return f". Known: {', '.join(sorted(names))}" if 0 < len(names) <= _LISTED else ""


def _unknown_argument(keys: list[str], class_path: str, name: str) -> SettingError:
    known, where = arguments_of(class_path), ".".join(keys)
    near = difflib.get_close_matches(name, known, n=1)
    if where == "model" and not near and (meant := meant_setting(name, {f"model.{key}" for key in known})):
        hint = f", did you mean {meant}?"
    else:
        hint = f" ({nearest(name, known)})"
    return SettingError(f"{where}: {class_path.rpartition('.')[2]} has no setting {name!r}{hint}", f"{where}.{name}")


def _nearest_of_module(module: str, name: str) -> str:
    near = difflib.get_close_matches(name, dir(importlib.import_module(module)), n=1)
    return f", did you mean {near[0]!r}?" if near else ""


def _wrong_value(keys: list[str], message: str) -> SettingError | None:
    """A value of another kind than declared, where that is all that is wrong."""
    if not keys:
        return None
    inner = message[message.rindex("Parser key") :]
    given = re.search(r"(?:Given value|Got value): (.*)", inner)
    expected = re.findall(r"Expected an? (.*?)(?=\. Got value:|\n|$)", inner[: given.start()] if given else inner)
    expected = [kind.rstrip(". ") for kind in expected if "NoneType" not in kind and not kind.startswith("path but")]
    if not expected or not given or "Problem with given class_path" in inner:
        return None
    options = [str(option) for kind in expected if kind.startswith("typing.Literal") for option in ast.literal_eval(kind[14:])]
    value, where = given[1].strip(), ".".join(keys)
    if options:
        near = [_PRECISIONS[value]] if value in _PRECISIONS else difflib.get_close_matches(value, options, n=1)
        wanted = f"one of {', '.join(options)}" + (f": did you mean {near[0]!r}?" if near else "")
    elif any(kind.startswith("dot import path") for kind in expected):
        near = difflib.get_close_matches(value, _classes(), n=1)
        wanted = "a class by its name or path" + (f": did you mean {near[0]!r}?" if near else ", or a mapping with class_path")
    else:
        wanted = " or ".join(dict.fromkeys(_KINDS.get(kind, kind) for kind in expected))
    return SettingError(f"{where} {value[:300]!r} must be {wanted}", where)


def _classes() -> list[str]:
    """Callbacks and loggers that a recipe may name without their path."""
    rooms = ("lightning.pytorch.callbacks", "lightning.pytorch.loggers", "lightning_clip.callbacks")
    return [name for room in rooms for name in importlib.import_module(room).__all__]


def _cause_of_union(message: str) -> str:
    """Of the errors of a union's types those that are not about null, in one line with the key."""
    union = re.search(r"\A(Parser key [^\n]*:)\n.*?Errors:\n(.*)\n\s*Given value type:", message, re.S)
    if not union:
        return message
    causes = [cause for cause in re.split(r"(?:\A|\n)  +- ", union[2]) if cause.strip() and "NoneType" not in cause]
    told = [cause.strip() for cause in causes if not cause.strip().startswith(_OF_ANY_CLASS)] or causes
    listed = "; or ".join(cause.strip() for cause in told)
    inner = [key for key in re.findall(r'Parser key "([\w.]+)"', union[2]) if key not in listed]
    given = re.search(r"Given value: (.*)", message)
    said = f" (given: {given[1]})" if inner and given else ""
    return f"{' '.join([union[1], *(f'{key}:' for key in inner)])} {listed}{said}"
