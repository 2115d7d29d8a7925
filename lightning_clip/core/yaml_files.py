"""YAML files of settings, with `${...}` resolved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.plugins import require_plugins
from lightning_clip.core.recipe_paths import recipe_path
from lightning_clip.core.yaml_bounds import check_references, checked_yaml

__all__ = ["plain_yaml", "read_mapping", "unresolved", "unset_variable"]


def read_mapping(path: str | Path | None, what: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """A YAML file as a plain mapping, without its `imports`, which must have been imported.

    Args:
        path: of the file, or the name of one that ships with the package; None for the overrides alone.
        what: it is, for messages ("suite").
        overrides: such as "balance.most=500", which override the file's.

    Raises:
        InputError: no such file, no YAML, one that grows without bound, no mapping, a reference to nothing, or a plug-in that
            `--import` has to name.
    """
    from omegaconf import OmegaConf

    where = f"the {what} given here" if path is None else f"{what} {str(path)!r}"
    path = None if path is None else recipe_path(path, what)
    given = None if path is None else unresolved(path, what)
    if given is not None and not isinstance(given, dict):
        raise InputError(f"{where} must be a mapping of settings")
    try:
        content = OmegaConf.merge(OmegaConf.create(given or {}), OmegaConf.from_dotlist(list(overrides)))
        check_references(OmegaConf.to_container(content, resolve=False), where)
        found: Any = OmegaConf.to_container(content, resolve=True)
    except InputError:
        raise
    except Exception as error:  # OmegaConf and YAML raise of every kind: values, keys, references, recursion
        if variable := unset_variable(str(error)):
            raise InputError(f"{where} needs {variable}") from error
        raise InputError(f"{where} cannot be read: {_first_line(error)}") from error
    folder = Path() if path is None else path.parent
    require_plugins(found.pop("imports", None), where, folder)
    return {str(key): value for key, value in found.items()}


def unresolved(path: str | Path, what: str) -> Any:
    """What a YAML file holds as plain mappings, lists and values; `${...}` stay texts.

    Args:
        path: of the file.
        what: it is, for messages ("recipe").

    Raises:
        InputError: no such file, no YAML, or one that grows without bound.
    """
    from io import StringIO

    from omegaconf import OmegaConf

    where = f"{what} {str(path)!r}"
    text = checked_yaml(path, what)
    try:
        content: Any = OmegaConf.load(StringIO(text))
        found = OmegaConf.to_container(content, resolve=False) if OmegaConf.is_config(content) else content
    except Exception as error:
        raise InputError(f"{where} cannot be read: {_first_line(error)}") from error
    check_references(found, where)
    return found


def plain_yaml(path: str | Path, what: str) -> Any:
    """What a YAML or JSON file holds as YAML has it, nothing resolved.

    Args:
        path: of the file.
        what: it is, for messages ("prompts").

    Raises:
        InputError: as `unresolved`.
    """
    import yaml

    text = checked_yaml(path, what)
    try:
        return yaml.safe_load(text)
    except Exception as error:  # values that are none: dates, whole numbers of thousands of digits
        raise InputError(f"{what} {str(path)!r} cannot be read: {_first_line(error)}") from error


def unset_variable(message: str) -> str | None:
    """What to say of a variable of the environment that a file refers to by `${oc.env:NAME}` and that is not set.

    Args:
        message: of OmegaConf's error.

    Examples:
        >>> unset_variable("Environment variable 'PAIRS' not found")
        'the environment variable PAIRS, which is not set: export PAIRS=...'
    """
    found = re.search(r"Environment variable '([^']+)' not found", message)
    return None if found is None else f"the environment variable {found[1]}, which is not set: export {found[1]}=..."


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:3])[:300] or type(error).__name__
