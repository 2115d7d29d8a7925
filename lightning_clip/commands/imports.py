"""Plug-ins on the command line: `--import` of every command, and `imports:` of the recipes that `fit` reads."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.plugins import listed_imports, load_installed, load_plugin, require_plugins
from lightning_clip.core.recipe_paths import CONFIG_FLAGS, recipe_path
from lightning_clip.core.yaml_files import unresolved

__all__ = ["IMPORT_HELP", "add_import_argument", "import_plugins", "recipes_of", "with_plugins"]

TRUST_HELP = (
    "import and run what the given files name: class_path, filters, pipe: commands, pickles; only for files of your own"
)
IMPORT_HELP = "a module of yours that registers towers, losses, sources, ...: my_package or my_file.py; may be repeated"
_FLAG, _HELP = "--import", ("--help", "-h", "--help-all")


def add_import_argument(parser: argparse.ArgumentParser) -> None:
    """Adds --import and --trust."""
    parser.add_argument(_FLAG, action="append", default=[], dest="imports", metavar="MODULE|FILE.py", help=IMPORT_HELP)
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)


def import_plugins(names: Sequence[str]) -> list[str]:
    """Imports the plug-ins of installed packages, then those that are named; returns the latter as a recipe may list them.

    Raises:
        InputError: one that is not there or fails on import.
    """
    load_installed()
    return [load_plugin(name) for name in names]


def with_plugins(arguments: Sequence[str], obeys_recipes: bool) -> list[str]:
    """Imports what `--import` and recipes name, before a parser asks for a class of theirs.

    Args:
        arguments: of one of the Trainer's commands.
        obeys_recipes: import what the recipes' `imports` name; otherwise only check that it was imported.

    Returns:
        The arguments without `--import`. Where recipes are obeyed, with all plug-ins as the value of `imports`, so that the
        recipe that is kept beside the run has them.

    Raises:
        InputError: a plug-in or a recipe that is not there, a plug-in that fails on import, or one that has to be imported by
            `--import` first.
    """
    given, others = _taken(arguments)
    if any(argument in _HELP for argument in others):
        return others
    loaded = import_plugins(given)
    for path in recipes_of(others):
        asked, where = _imports_of(path), f"recipe {str(path)!r}"
        if obeys_recipes:
            loaded += [load_plugin(name, path.parent) for name in listed_imports(asked, where)]
        else:
            require_plugins(asked, where, path.parent)
    import json

    return [*others, f"{_FLAG}={json.dumps(list(dict.fromkeys(loaded)))}"] if obeys_recipes and loaded else others


def recipes_of(arguments: Sequence[str]) -> Iterator[Path]:
    """The paths behind --config, in order.

    Raises:
        InputError: one does not exist.
    """
    following = [*arguments[1:], ""]
    for argument, value in zip(arguments, following, strict=True):
        flag, sign, joined = argument.partition("=")
        if flag in CONFIG_FLAGS and (sign or value):
            yield recipe_path(joined if sign else value)


def _taken(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What --import names, and the other arguments."""
    names, others, waiting = [], [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith(f"{_FLAG}="):
            names.append(argument.partition("=")[2])
        elif argument == _FLAG:
            if not waiting or waiting[0].startswith("-"):
                raise InputError(f"{_FLAG} needs a module or the path of a .py file")
            names.append(waiting.pop(0))
        else:
            others.append(argument)
    return names, others


def _imports_of(path: Path) -> Any:
    """The value of `imports` in a recipe, which is checked to be one."""
    content = unresolved(path, "recipe")
    if not isinstance(content, dict):
        raise InputError(f"recipe {str(path)!r} must be a mapping of settings, with model, data and trainer")
    if "${" not in str(content.get("imports")):
        return content.get("imports")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(content).imports, resolve=True)
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(f"recipe {str(path)!r}: imports cannot be read: {str(error).splitlines()[0]}") from error
