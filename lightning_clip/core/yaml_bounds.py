"""`checked_yaml`: the text of a YAML file, refused before anything is built of it if it would grow without bound."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["check_growth", "check_references", "checked_yaml"]

_BYTES, _NODES, _DEPTH = 8 << 20, 200_000, 60
_TOO_DEEP = f"is nested more than {_DEPTH} deep: no settings are"
_DYNAMIC = 400  # parts that `${a.${b}}` is taken to come to, as its target is not known before
_REFERENCE = re.compile(r"\$\{(?P<dots>\.*)(?P<name>[^${}:]*)\}")


def checked_yaml(path: str | Path, what: str) -> str:
    """The text of a YAML file that is neither too large, nor too deep, nor grows too far by its aliases.

    Ten lines of aliases of aliases come to 10^9 parts when they are built ("billion laughs"); here they are only counted.

    Args:
        path: of the file.
        what: it is, for messages ("recipe").

    Raises:
        InputError: no such file, one that cannot be read, no UTF-8, no YAML, or one beyond the bounds.
    """
    import yaml

    where, found = f"{what} {str(path)!r}", existing_path(path, what)
    try:
        if found.stat().st_size > _BYTES:
            raise InputError(f"{where} has {found.stat().st_size:,} bytes: a file of settings may have {_BYTES:,}")
        text = found.read_text(encoding="utf-8")
        check_growth(text, where)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is no text in UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from error
    except yaml.YAMLError as error:
        if "nesting depth" in str(error):  # newer parsers have a bound of their own
            raise InputError(f"{where} {_TOO_DEEP}") from error
        raise InputError(f"{where} cannot be read: {_syntax(error, text)}") from error
    except OSError as error:
        raise InputError(f"{where} cannot be read: {error.strerror or error}") from error
    return text


def _syntax(error: Any, text: str) -> str:
    """What is wrong with a text that is no YAML: line and column first, then the line itself."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    why = " ".join(filter(None, (error.context, error.problem)))
    hint = ": indent by spaces, YAML takes no tabs" if "\t" in line[: mark.column + 1] else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {why}, at {line.strip()[:80]!r}{hint}"


def check_growth(text: str, where: str) -> None:
    """Refuses YAML that is too deep, or that comes to too much when its aliases are written out.

    Args:
        text: of the file.
        where: the file, for the message.

    Raises:
        InputError: beyond the bounds; yaml.YAMLError where it is no YAML.
    """
    if (nodes := _expanded_nodes(text, where)) > _NODES:
        raise InputError(f"{where} comes to {nodes:.3g} parts by its aliases: at most {_NODES:,} are read")


def check_references(content: Any, where: str) -> None:
    """Refuses `${...}` that come to too much by referring to each other, as aliases may.

    Args:
        content: plain mappings, lists and values with references not yet resolved.
        where: the file, for the message.

    Raises:
        InputError: more than 200,000 parts.
    """
    known = dict(_leaves(content, ()))
    counted: dict[tuple[str, ...], int | None] = {}

    def parts(place: tuple[str, ...]) -> int:
        if place not in known:  # a mapping or list: all that is in it
            return max(1, sum(parts(leaf) for leaf in known if leaf[: len(place)] == place))
        if place in counted:
            return counted[place] or 1  # None: a circle, which OmegaConf refuses
        counted[place] = None
        text, count = known[place], 1
        for match in _REFERENCE.finditer(text):
            names = [name for name in re.split(r"[.\[\]]", match["name"]) if name]
            base = place[: len(place) - len(match["dots"])] if match["dots"] else ()
            count += parts((*base, *names)) if names else 1
        count += _DYNAMIC * (text.count("${") - len(_REFERENCE.findall(text)) - text.count(":${"))
        counted[place] = min(count, 10 * _NODES)
        return min(count, 10 * _NODES)

    total = 0
    for place, text in known.items():
        if "${" in text:
            total += parts(place)
        if total > _NODES:
            raise InputError(f"{where}: {'.'.join(place)} comes to more than {_NODES:,} parts by its references ${{...}}")


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, Mapping | list):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _leaves(item, (*place, str(key)))
    else:
        yield place, value if isinstance(value, str) else ""


def _expanded_nodes(text: str, where: str) -> int:
    """Parts of a YAML text with its aliases written out; counted from its events, so that nothing is built."""
    import yaml

    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]  # anchor, parts so far
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise InputError(f"{where} has an alias {event.anchor!r} of nothing, or of what it stands in")
            _add(open_nodes, sizes[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor:
                sizes[event.anchor] = 1
            _add(open_nodes, 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if event.anchor:
                sizes.pop(event.anchor, None)
            if len(open_nodes) > _DEPTH:
                raise InputError(f"{where} {_TOO_DEEP}")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
            if anchor:
                sizes[anchor] = size
            _add(open_nodes, size)
    return open_nodes[0][1]


def _add(open_nodes: list[tuple[str | None, int]], size: int) -> None:
    anchor, sofar = open_nodes[-1]
    open_nodes[-1] = (anchor, sofar + size)
