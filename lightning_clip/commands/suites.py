"""`lightning-clip suites`: the suites that come with the package, the sets they measure, and which of these are there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_clip.evaluation.suite import Suite

__all__ = ["add_arguments", "markdown_tables", "run"]

_SUITES = ("suite", "sets", "there", "protocols")
_SETS = ("set", "what", "classes", "test images", "suites", "files", "shards")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("suite", nargs="?", help="name of a suite, whose sets are listed; omit it for all suites")
    parser.add_argument("--data", help="folder of the sets (default: $LIGHTNING_CLIP_DATASETS)")
    parser.add_argument("--markdown", action="store_true", help="all suites and sets as the documentation has them")


def run(arguments: argparse.Namespace) -> None:
    """Prints a table."""
    from rich.table import Table

    from lightning_clip.evaluation.shipped import BUILT_IN
    from lightning_clip.evaluation.suite import Suite
    from lightning_clip.prompts.sets.roots import datasets_folder
    from lightning_clip.reporting.terminal import PlainConsole

    if arguments.markdown:
        print(markdown_tables())
        return
    root = Path(arguments.data).expanduser() if arguments.data else datasets_folder()
    console = PlainConsole()
    if arguments.suite is None:
        table = Table(*_SUITES)
        for name in BUILT_IN:
            table.add_row(*_of_suite(name, Suite.read(name), root))
    else:
        table = Table("set", "what", "protocols", "there", "looked for in")
        for name, spec in Suite.read(arguments.suite).sets.items():
            place = _place(str(spec["name"]), root)
            table.add_row(name, _title(str(spec["name"])), ", ".join(_protocols(spec)), *place)
    console.print(table)
    console.print(f"sets are looked for in {root}", highlight=False)


def markdown_tables() -> str:
    """All suites, and all sets by name, as tables in markdown."""
    from lightning_clip.evaluation.shipped import BUILT_IN
    from lightning_clip.evaluation.suite import Suite
    from lightning_clip.prompts.sets import known_sets

    suites = {name: Suite.read(name) for name in BUILT_IN if name != "limits"}  # whose sets depend on what is there
    lines = ["| suite | sets | protocols |", "|---|---|---|"]
    for name, suite in suites.items():
        used = dict.fromkeys(protocol for spec in suite.sets.values() for protocol in _protocols(spec))
        lines.append(f"| `{name}` | {len(suite.sets)} | {', '.join(used)} |")
    lines += ["", "| " + " | ".join(_SETS) + " |", "|" + "---|" * len(_SETS)]
    for name, known in known_sets().items():
        within = [of for of, suite in suites.items() if any(spec["name"] == name for spec in suite.sets.values())]
        cells = (
            f"`{name}`",
            known.title,
            f"{known.classes:,}" if known.classes else "",
            f"{known.images:,}",
            ", ".join(within),
            f"`{known.files}`" if known.files else "",
            f"`{known.shards}`" if known.shards else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _of_suite(name: str, suite: Suite, root: Path) -> tuple[str, ...]:
    there = sum(_place(str(spec["name"]), root)[0] == "yes" for spec in suite.sets.values())
    used = dict.fromkeys(protocol for spec in suite.sets.values() for protocol in _protocols(spec))
    return name, str(len(suite.sets)), str(there), ", ".join(used)


def _protocols(spec: object) -> list[str]:
    """Names of a set's protocols, each once."""
    entries = spec["protocols"]  # type: ignore[index]
    return list(dict.fromkeys(entry if isinstance(entry, str) else str(entry["name"]) for entry in entries))


def _title(name: str) -> str:
    from lightning_clip.prompts.sets import known_sets

    return known_sets()[name].title if name in known_sets() else "made here"


def _place(name: str, root: Path) -> tuple[str, str]:
    """Whether a set is there, and where it is looked for below the root."""
    from lightning_clip.prompts.sets import known_sets

    if name not in known_sets():
        return "yes", ""
    known = known_sets()[name]
    found = known.folder_of_shards(root, name) is not None or bool(known.files and (root / known.files).exists())
    return "yes" if found else "no", " or ".join(place for place in (known.files, known.shards) if place)
