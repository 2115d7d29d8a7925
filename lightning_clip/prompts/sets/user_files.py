"""Prompt files: class names and templates in YAML or JSON, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.yaml_bounds import check_growth
from lightning_clip.prompts.sets.names import ClassNames
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["chosen_prompts", "read_prompt_file"]

_KEYS = ("class_names", "templates")


def read_prompt_file(path: str | Path) -> tuple[ClassNames, list[str]]:
    """Class names and templates from a YAML or JSON file, in any language.

    `class_names` is a list in the order of the labels, an entry being a name or a list of names of the class; or a mapping
    whose keys, which are in no prompt, tell a reader what the class is: `{n02084071: [dog, hound]}`.

    Args:
        path: UTF-8, ending in .yaml, .yml or .json.

    Returns:
        Per class its name, or its names; and the templates, each with {}. Either is empty where the file lacks it.

    Raises:
        InputError: no such file, no YAML or JSON, an unknown key, a class without a name, a name that two classes have or
            a class has twice, or a template without {}.
    """
    found = existing_path(path, "prompt file")
    if found.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise InputError(f"prompt file {str(path)!r} must end in .yaml, .yml or .json")
    content = _parsed(found)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"prompt file {str(path)!r} must be a mapping with {' and '.join(_KEYS)}")
    for key in content:
        if key not in _KEYS:
            raise InputError(f"prompt file {str(path)!r} has an unknown key {key!r}: {nearest(str(key), _KEYS)}")
    try:
        names = _class_names(content["class_names"]) if "class_names" in content else []
        templates = resolve_templates(_listed(content["templates"])) if "templates" in content else []
    except InputError as error:
        raise InputError(f"prompt file {str(path)!r}: {error}") from error
    return names, templates


def chosen_prompts(
    own_names: Sequence[str | list[str]],
    own_templates: str | Sequence[str],
    prompts: str | None,
    templates: str | Sequence[str] | None,
) -> tuple[ClassNames, list[str]]:
    """The class names and templates of a set, or what a user gives in their place.

    Args:
        own_names: of the set, in the order of the labels.
        own_templates: of the set.
        prompts: a file for `read_prompt_file`, or None.
        templates: a set's name, one template or several, or None; goes before the file's.

    Raises:
        InputError: a wrong file or template, or another number of classes than the set has.
    """
    names, of_file = read_prompt_file(prompts) if prompts is not None else ([], [])
    if names and own_names and len(names) != len(own_names):
        raise InputError(
            f"prompt file {prompts!r} has {len(names)} classes but the set has {len(own_names)}: "
            f"{', '.join(map(str, own_names[:5]))}{', ...' if len(own_names) > 5 else ''}"
        )
    return names or list(own_names), resolve_templates(templates or of_file or own_templates)


def _class_names(given: Any) -> ClassNames:
    if not isinstance(given, list | Mapping) or not given:
        raise InputError(f"class_names {given!r} must be a list of names, or a mapping of a class to its names")
    classes = list(given.items()) if isinstance(given, Mapping) else list(enumerate(given))
    owner: dict[str, Any] = {}
    names: ClassNames = []
    for place, several in classes:
        if several is None or several == [] or several == "":
            raise InputError(f"class {place!r} is empty: give it at least one name")
        for name in several if isinstance(several, list) else [several]:
            if not isinstance(name, str):
                raise InputError(f"class {place!r} has the name {name!r}, which is no text: put it in quotes")
            if not name.strip():
                raise InputError(f"class {place!r} has an empty name: give it one, or omit it")
            if name.strip() in owner:
                raise InputError(f"name {name!r} is given to class {owner[name.strip()]!r} and to {place!r}: keep one of them")
            owner[name.strip()] = place
        names.append([name.strip() for name in several] if isinstance(several, list) else several.strip())
    return names


def _listed(given: Any) -> Any:
    if not isinstance(given, str | list):
        raise InputError(
            f"templates {given!r} must be a list of sentences with {{}} where the class name goes, or a set's name"
        )
    return given


def _parsed(path: Path) -> Any:
    import yaml  # here: most evaluations read no such file

    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_unique)
        check_growth(text, f"prompt file {str(path)!r}")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _check_keys(node, yaml)
        return yaml.safe_load(text)
    except (ValueError, yaml.YAMLError, RecursionError, TypeError) as error:
        if isinstance(error, InputError):
            raise InputError(f"prompt file {str(path)!r}: {error}") from error
        kind = "JSON" if path.suffix.lower() == ".json" else "YAML"
        raise InputError(f"prompt file {str(path)!r} is no {kind} in UTF-8: {' '.join(str(error).split())}") from error


def _unique(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in entries:
        if key in found:
            raise InputError(f"duplicate key {key!r}: keep one")
        found[key] = value
    return found


def _check_keys(node: Any, yaml: Any) -> None:
    """Refuses duplicate keys, of which YAML would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        _unique([(key.value, None) for key, _ in node.value])
        for _, value in node.value:
            _check_keys(value, yaml)
