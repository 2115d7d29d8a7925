"""`lightning-clip recipes`: what ships with the package, listed by name and copied to be changed."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from pathlib import Path

from lightning_clip.core.errors import InputError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.description = "List the recipes that ship with the package, or copy one of them, to be changed."
    parser.add_argument("action", nargs="?", choices=("list", "copy"), default="list", help="what to do (default: %(default)s)")
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a recipe or of a folder of them, such as demo or adapt")
    parser.add_argument("--output", metavar="FILE.yaml", help="where the copy is written, a folder too (default: NAME.yaml)")


def run(arguments: argparse.Namespace) -> None:
    """Prints a table, or writes a copy.

    Raises:
        InputError: no such recipe, or a file that is there already.
    """
    if arguments.action == "list":
        if arguments.output:
            raise InputError("--output is for a copy: lightning-clip recipes copy NAME --output FILE.yaml")
        _list(arguments.name)
        return
    if not arguments.name:
        raise InputError("recipes copy needs a name, such as lightning-clip recipes copy demo")
    source, output = _copy(arguments.name, arguments.output)
    print(f"wrote {output}")
    print(f"run it: {_command(source.as_posix(), output)}")


def _list(only: str | None) -> None:
    """A table of name, what it is and the time; of folders, unless one is asked for, the names alone."""
    from rich.table import Table

    from lightning_clip.core.shipped import shipped_recipes, unknown_recipe
    from lightning_clip.reporting.terminal import PlainConsole

    within = f"{only.removeprefix('recipes/').rstrip('/')}/" if only else ""
    every = list(shipped_recipes())
    found = [recipe for recipe in every if f"{recipe.name}/".startswith(within) and (only or "/" not in recipe.name)]
    if not found:
        raise InputError(f"no recipe and no folder of recipes is called {only!r}: {unknown_recipe(str(only))}")
    table = Table("recipe", "what it is", "time", box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    table.columns[1].overflow = "fold"
    for recipe in sorted(found, key=lambda one: one.name != "demo"):  # the one to begin with first
        table.add_row(recipe.name, recipe.summary, re.sub(r"(\d) minutes on ", r"\1 min, ", recipe.time))
    console = PlainConsole(highlight=False)
    console.print(table)
    first = "demo" if not only else found[0].name
    lines = ["", f"run one:    {_command(first, first)}", f"change one: lightning-clip recipes copy {first}"]
    folders = Counter(recipe.name.rpartition("/")[0] for recipe in every if "/" in recipe.name)
    if not only:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(folders.items()))
        lines.append(f"more of them, by lightning-clip recipes list FOLDER: {names}")
    console.print("\n".join(lines), soft_wrap=True)


def _command(name: str, path: object) -> str:
    """The command that takes a recipe, by the folder that it stands in."""
    folder = name.partition("/")[0]
    if folder == "evaluation":
        return f"lightning-clip evaluate --suite {path} --checkpoint MODEL"
    return f"lightning-clip {'data curate' if folder == 'curation' else 'fit'} --config {path}"


def _copy(name: str, output: str | None) -> tuple[Path, Path]:
    """Copies a recipe; returns its place among the recipes, and that of the copy."""
    from lightning_clip.core.atomic import beside
    from lightning_clip.core.shipped import recipes_folder, shipped_recipe, unknown_recipe

    source = shipped_recipe(name)
    if source is None:
        raise InputError(f"no recipe is called {name!r}: {unknown_recipe(name)}")
    if source.is_dir():
        inside = ", ".join(
            file.relative_to(recipes_folder()).with_suffix("").as_posix() for file in sorted(source.rglob("*.yaml"))
        )
        raise InputError(f"{name!r} is a folder of recipes: name one of {inside}")
    target = Path(output).expanduser() if output else Path(source.name)
    if target.is_dir() or (output or "").endswith("/"):
        target /= source.name
    if target.exists():
        raise InputError(f"{str(target)!r} exists and is never replaced: name another file with --output")
    with beside(target) as place:
        place.write_bytes(source.read_bytes())
    return source.relative_to(recipes_folder()), target
