"""Settings of any depth on the command line: `--model.training.optimizer.lr=1e-3` changes one value of a recipe's mapping.

jsonargparse takes such an option for the whole of the argument, and drops the mapping's other values. Here the mappings are put
together before it reads them: each option that reaches into one becomes an option with the whole mapping.
"""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lightning_clip.core.errors import InputError
from lightning_clip.core.recipe_paths import CONFIG_FLAGS
from lightning_clip.core.settings import declared
from lightning_clip.core.trust import check_import
from lightning_clip.core.yaml_files import unresolved

__all__ = ["with_deep_settings"]

_INNER = "init_args"  # of a class that is named by its path, as the parser keeps it
_REFERENCE = re.compile(r"\$\{([a-zA-Z][\w.\[\]]*)\}")


def with_deep_settings(arguments: Sequence[str], model: type, data: type) -> list[str]:
    """Arguments with whole mappings in the place of options that reach into one.

    Args:
        arguments: of one of the Trainer's commands.
        model: the class of the recipe's `model`, unless it names a subclass.
        data: the class of the recipe's `data`.

    Returns:
        As many options, in their order; `--KEY VALUE` is joined as `--KEY=VALUE`.

    Raises:
        InputError: an option that reaches into something else than a mapping, or whose value is no YAML.
    """
    parts = {"model": _Section(["model", _INNER], model), "data": _Section(["data"], data)}
    found = []
    for argument in _joined(arguments, [f"--{name}" for name in parts]):
        flag, sign, text = argument.partition("=")
        if flag in CONFIG_FLAGS and text:
            content = _content(Path(text).expanduser())
            for name, part in parts.items():
                part.take(content.get(name))
            found.append(argument)
            continue
        name, _, path = flag.removeprefix("--").partition(".")
        of_section = sign and flag.startswith("--") and name in parts
        found.append(parts[name].option(argument, path, text) if of_section else argument)
    return found


@dataclass
class _Section:
    """What is known of a part of the recipe, up to some argument.

    Args:
        place: of the class's arguments in the recipe that the parser makes.
        cls: the class that it describes.
        values: argument of the class -> its value, references not resolved.
    """

    place: list[str]
    cls: type
    values: dict[str, Any] = field(default_factory=dict)

    def take(self, content: Any) -> None:
        """Values of a file or an option replace those before; a class's name alone changes none."""
        if isinstance(content, str):
            self.cls = _class_of(content, self.cls)
        if not isinstance(content, Mapping):
            return
        if isinstance(path := content.get("class_path"), str):
            self.cls = _class_of(path, self.cls)
        inner = content.get(_INNER) if {"class_path", _INNER} & set(content) else content
        self.values.update(inner if isinstance(inner, Mapping) else {})

    def option(self, argument: str, path: str, text: str) -> str:
        """The option that says the same without reaching into a mapping."""
        key, *deeper = path.removeprefix(f"{_INNER}.").split(".")
        if not path or path == "class_path":
            self.take(_value(text, argument))
        elif not deeper:
            self.values[key] = _value(text, argument)
        elif _takes_mappings(self.cls, key):
            name = f"{self.place[0]}.{key}"
            self.values[key] = _changed(self.values.get(key), deeper, _value(text, argument), name, argument)
            return f"--{name}={_written(_relative(self.values[key], [*self.place, key]))}"
        return argument


def _joined(arguments: Sequence[str], flags: Sequence[str]) -> Iterator[str]:
    """`--KEY VALUE` as `--KEY=VALUE`, for paths of recipes and for options of the parts."""
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        ours = argument in (*CONFIG_FLAGS, *flags) or argument.startswith(tuple(f"{flag}." for flag in flags))
        if ours and "=" not in argument and waiting and not waiting[0].startswith("--"):
            argument = f"{argument}={waiting.pop(0)}"
        yield argument


def _content(path: Path) -> Mapping[str, Any]:
    """A recipe as it stands, references not resolved."""
    content = unresolved(path, "recipe")
    return {str(key): value for key, value in content.items()} if isinstance(content, Mapping) else {}


def _value(text: str, argument: str) -> Any:
    """An option's value as a recipe would have it."""
    try:
        found: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"{argument!r} has no value that YAML can hold: {error}") from error
    return found["value"]


def _changed(value: Any, path: Sequence[str], new: Any, where: str, argument: str) -> dict[str, Any]:
    """A copy of a mapping with one value at a path changed; levels that are not there are made."""
    if value is not None and not isinstance(value, Mapping):
        whole = f"--{where}={{name: {value}, {path[0]}: ...}}" if isinstance(value, str) else "the whole of it"
        raise InputError(f"{argument!r} reaches into {where}, which is {value!r} and no mapping: give {whole}")
    changed = copy.deepcopy(dict(value or {}))
    key, *deeper = path
    changed[key] = _changed(changed.get(key), deeper, new, f"{where}.{key}", argument) if deeper else new
    return changed


def _class_of(name: str, default: type) -> type:
    """A class by its path, or a subclass by its name; the default where the parser will say that there is none."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        return next((cls for cls in _subclasses(default) if cls.__name__ == name), default)
    check_import(name)
    try:
        found = getattr(importlib.import_module(module), attribute, default)
    except Exception:  # of a user's own module, which the parser imports again and tells of
        return default
    return found if isinstance(found, type) else default


def _subclasses(cls: type) -> Iterator[type]:
    inner: type
    for inner in cls.__subclasses__():
        yield inner
        yield from _subclasses(inner)


def _takes_mappings(cls: type, key: str) -> bool:
    """Whether an argument of a class may be a mapping; what only takes objects is built by the parser, option by option."""
    kinds = (declared(base).get(key) for base in cls.__mro__ if "__init__" in vars(base))
    kind = next((kind for kind in kinds if kind is not None), None)
    return any((get_origin(choice) or choice) in (dict, Mapping) for choice in (kind, *get_args(kind)))


def _relative(value: Any, place: Sequence[str]) -> Any:
    """References as seen from where they stand, `${..lr}`: the parser takes others for ones from the mapping's own root."""
    if isinstance(value, Mapping):
        return {key: _relative(item, [*place, str(key)]) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, [*place, str(index)]) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def seen_from_here(match: re.Match[str]) -> str:
        target = match[1].split(".")
        if target[0] == "model" and target[1:2] not in ([_INNER], ["class_path"]):
            target.insert(1, _INNER)
        shared = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(place, target, strict=False))))
        return "${" + "." * max(1, len(place) - shared) + ".".join(target[shared:]) + "}"

    return _REFERENCE.sub(seen_from_here, value)


class _Quoting(yaml.SafeDumper):  # type: ignore[misc]
    """Texts in quotes: `1e-3` among them would be read as a number again."""


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def _written(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Quoting, default_flow_style=True, allow_unicode=True, width=float("inf"))
    return text.strip()
