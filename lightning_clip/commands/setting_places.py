"""Where in the recipes a setting stands: its file and line, for errors about its value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["place_of_setting"]

_INNER = "init_args"


def place_of_setting(key: str, recipes: Sequence[Path], options: Sequence[str]) -> str | None:
    """The last recipe that gives a setting, and the line there.

    Args:
        key: of the setting with its sections, such as "trainer.precision".
        recipes: files that could be read as YAML, the later overriding the earlier.
        options: of the command line, which override all of them.

    Returns:
        Such as "recipe 'mine.yaml', line 12"; None where an option gives it, or nothing does.
    """
    import yaml

    if not key or any(option.startswith(f"--{key}") for option in options):
        return None
    for path in reversed(recipes):
        tree = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        if (line := _line(tree, key.split("."))) is not None:
            return f"recipe {str(path)!r}, line {line}"
    return None


def _line(node: Any, names: Sequence[str]) -> int | None:
    """The line of a key below a node, with or without `init_args` between; in a list of any of its items."""
    import yaml

    if isinstance(node, yaml.SequenceNode):
        return next((line for item in node.value if (line := _line(item, names)) is not None), None)
    if not isinstance(node, yaml.MappingNode):
        return None
    for name, value in node.value:
        if name.value == names[0]:
            return name.start_mark.line + 1 if len(names) == 1 else _line(value, names[1:])
    return next((_line(value, names) for name, value in node.value if name.value == _INNER), None)
