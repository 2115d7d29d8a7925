"""The recipes that ship with the package: found by name wherever it is installed, listed and described by their first lines."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "ShippedRecipe",
    "recipe_names",
    "recipes_folder",
    "shipped_file",
    "shipped_recipe",
    "shipped_recipes",
    "unknown_recipe",
]

_PACKAGE = Path(__file__).parent.parent
_FOLDER = "recipes"
_OTHER = re.compile(r"# (Takes|First, once)")
_COMMAND = re.compile(r"(?:LIGHTNING_CLIP_\w+=\S+ )*lightning-clip ")
_TIME = re.compile(r"^# Takes (.+?)\.?$", re.M)


class ShippedRecipe(NamedTuple):
    """A recipe of the package.

    Attributes:
        name: as `--config` takes it, such as "demo" or "adapt/lora".
        summary: what it does, in one sentence.
        time: that its run takes and where, "" where that is not known.
        path: of the file.
    """

    name: str
    summary: str
    time: str
    path: Path


def recipes_folder() -> Path:
    """The folder of recipes: inside the installed package, or beside it in a clone of the repository."""
    inside = _PACKAGE / _FOLDER
    return inside if inside.is_dir() else _PACKAGE.parent / _FOLDER


def shipped_file(path: str | Path) -> Path | None:
    """What a path that begins with `recipes/` names in the package, or None.

    With it the commands of the documentation, and references between recipes, hold in every folder.

    Examples:
        >>> shipped_file("recipes/demo.yaml").name, shipped_file("recipes/none.yaml"), shipped_file("demo.yaml")
        ('demo.yaml', None, None)
    """
    parts = Path(path).parts
    if len(parts) < 2 or parts[0] != _FOLDER or ".." in parts:
        return None
    found = recipes_folder().joinpath(*parts[1:])
    return found if found.exists() else None


def shipped_recipe(name: str | Path) -> Path | None:
    """The file of a recipe, or the folder of several, by its name; None if there is none.

    Args:
        name: such as "demo", "adapt/lora", "recipes/demo.yaml", or "efficiency/scenes" for a folder.

    Examples:
        >>> shipped_recipe("demo").name, shipped_recipe("adapt/lora").name, shipped_recipe("nothing")
        ('demo.yaml', 'lora.yaml', None)
    """
    text = Path(name).as_posix().removeprefix(f"{_FOLDER}/")
    if not text or text.startswith(("/", "~", ".")) or ".." in Path(text).parts:
        return None
    whole = recipes_folder() / text
    return next((path for path in (whole.with_name(f"{whole.name}.yaml"), whole) if path.exists()), None)


def recipe_names() -> list[str]:
    """The names of all recipes, those of the first level first."""
    folder = recipes_folder()
    files = sorted(folder.rglob("*.yaml"), key=lambda file: (len(file.relative_to(folder).parts), file))
    return [file.relative_to(folder).with_suffix("").as_posix() for file in files]


def shipped_recipes() -> Iterator[ShippedRecipe]:
    """All recipes with what their first lines say of them, those of the first level first."""
    folder = recipes_folder()
    for name in recipe_names():
        path = folder / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        time = _TIME.search(text)
        yield ShippedRecipe(name, _summary(text), time[1] if time else "", path)


def unknown_recipe(name: str) -> str:
    """What an error says of a name that is no recipe's: the nearest name, or how to list them.

    Examples:
        >>> unknown_recipe("demmo")
        "did you mean 'demo'? lightning-clip recipes lists those that ship with the package"
    """
    close = difflib.get_close_matches(name.removesuffix(".yaml"), recipe_names(), n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}lightning-clip recipes lists those that ship with the package"


def _summary(text: str) -> str:
    """What the comment on top says of the recipe, without the commands that follow."""
    lines: list[str] = []
    for line in text.splitlines():
        words = _COMMAND.split(line.removeprefix("# "))[0].rstrip(" :;")
        if not line.startswith("# ") or _OTHER.match(line) or not words:
            break
        lines.append(words)
        if words != line.removeprefix("# "):
            break
    return " ".join(lines)
