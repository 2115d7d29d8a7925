"""Recipes as they are named on a command line: a file of one's own, or one that ships with the package, by its name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.shipped import shipped_recipe, unknown_recipe

__all__ = ["CONFIG_FLAGS", "recipe_path", "with_recipe_paths"]

CONFIG_FLAGS = ("--config", "-c")


def recipe_path(given: str | Path, what: str = "recipe", *, folders: bool = False) -> Path:
    """The file that a recipe's name or path stands for; one of the user's own comes first.

    Args:
        given: such as "demo", "adapt/lora", "recipes/demo.yaml" or "mine.yaml".
        what: it is, for the message.
        folders: a folder of recipes will do, too.

    Raises:
        InputError: neither a file nor the name of a recipe.

    Examples:
        >>> recipe_path("demo").name
        'demo.yaml'
    """
    own = Path(given).expanduser()
    if own.is_file() or (folders and own.is_dir() and any(own.glob("*.yaml"))):
        return own
    shipped = shipped_recipe(given)
    if shipped is not None and (folders or shipped.is_file()):
        return shipped
    if own.exists() or own.suffix or own.parent != Path():  # meant as a path
        return existing_path(own, what)
    raise InputError(f"{what} {str(given)!r} is neither a file nor the name of a recipe: {unknown_recipe(str(given))}")


def with_recipe_paths(arguments: Sequence[str]) -> list[str]:
    """Arguments of one of the Trainer's commands with files in the place of recipes' names.

    Args:
        arguments: as they were typed.

    Raises:
        InputError: neither a file nor the name of a recipe.
    """
    found, waiting = [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        flag, sign, joined = argument.partition("=")
        if flag not in CONFIG_FLAGS or not (sign or waiting):
            found.append(argument)
        else:
            found.append(f"--config={recipe_path(joined if sign else waiting.pop(0))}")
    return found
