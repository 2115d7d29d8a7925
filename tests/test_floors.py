"""Imports point down: the floors of CONTRIBUTING.md hold for every import, those in functions and for types alone too."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import lightning_clip

PACKAGE = Path(lightning_clip.__file__).parent
CONTRIBUTING = PACKAGE.parent / "CONTRIBUTING.md"
# What sees a model only through `Predictor` or an interface of its own.
NEVER_SEE_THE_MODULE = {"evaluation", "callbacks", "export", "applications"}


def floors() -> dict[str, int]:
    """Room -> floor, as CONTRIBUTING.md lists them from the ground up."""
    found: dict[str, int] = {}
    table = CONTRIBUTING.read_text("utf-8").partition("<!-- floors -->")[2].partition("<!-- end of floors -->")[0]
    for number, rooms in re.findall(r"^\| (\d+) \| ([^|]+) \|", table, re.M):
        found.update(dict.fromkeys(re.findall(r"`(\w+)`", rooms), int(number)))
    return found


def module_files() -> dict[str, Path]:
    """Dotted name -> file."""
    files = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def imported(path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and module of every import of the package's own in a file."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield node.lineno, inner if inner in known else node.module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func) and isinstance(node.args[0], ast.Constant):
            yield node.lineno, str(node.args[0].value)


@cache
def arrows() -> list[tuple[str, int, str]]:
    """(importing module, line, imported module); a package stands for its `__init__`."""
    known = module_files()
    return [
        (name, line, target)
        for name, path in known.items()
        for line, target in imported(path, known)
        if target.partition(".")[0] == "lightning_clip" and target != name
    ]


def room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of more than one node that reach each other (Tarjan's algorithm, by two passes)."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(start: str, graph: dict[str, set[str]], out: list[str]) -> None:
        stack = [(start, iter(sorted(graph.get(start, ()))))]
        seen.add(start)
        while stack:
            node, following = stack[-1]
            step = next((other for other in following if other not in seen), None)
            if step is None:
                out.append(node)
                stack.pop()
            else:
                seen.add(step)
                stack.append((step, iter(sorted(graph.get(step, ())))))

    for node in sorted(edges):
        if node not in seen:
            visit(node, edges, order)
    back: dict[str, set[str]] = {}
    for node, targets in edges.items():
        for target in targets:
            back.setdefault(target, set()).add(node)
    seen.clear()
    groups = []
    for node in reversed(order):
        if node not in seen:
            group: list[str] = []
            visit(node, back, group)
            groups.append(set(group))
    return [group for group in groups if len(group) > 1]


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in module_files()} - {"__init__", "__main__"}
    assert rooms == set(floors())


def test_imports_point_down() -> None:
    floor = floors()
    up = [
        f"{name}:{line} imports {target}"
        for name, line, target in arrows()
        if room(name) in floor and floor.get(room(target), 0) > floor[room(name)]
    ]
    assert not up, "\n".join(up)


def test_no_circle_of_rooms() -> None:
    floor = floors()
    edges: dict[str, set[str]] = {name: set() for name in floor}
    for name, _, target in arrows():
        if room(name) in floor and room(target) in floor and room(name) != room(target):
            edges[room(name)].add(room(target))
    assert not circles(edges)


def test_no_circle_of_files() -> None:
    edges: dict[str, set[str]] = {name: set() for name in module_files()}
    for name, _, target in arrows():
        if name not in ("lightning_clip", "lightning_clip.__main__"):
            edges[name].add(target)
    assert not circles(edges)


def test_who_never_sees_the_module() -> None:
    seen = [
        f"{name}:{line}" for name, line, target in arrows() if room(name) in NEVER_SEE_THE_MODULE and room(target) == "module"
    ]
    assert not seen, "\n".join(seen)


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert not circles({"a": {"b", "c"}, "b": {"c"}, "c": set()})
