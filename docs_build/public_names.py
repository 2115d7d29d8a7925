"""What of a module the API pages show: classes, and the functions that a package hands on or that a page names.

A griffe extension that mkdocstrings loads (see mkdocs.yml). Everything else keeps its docstring in the source, where those who
change the code read it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parent.parent
# Methods that Lightning calls, never a user: its own documentation says when.
HOOKS = re.compile(
    r"on_\w+|setup|teardown|configure_\w+|(training|validation|test|predict|optimizer)_step|transfer_batch_to_device"
    r"|(train|val|test|predict)_dataloader|(load_)?state_dict"
)


@cache
def words_of_pages() -> frozenset[str]:
    """Names in backticks or code of the pages that are not API pages, and of the two files beside them.

    Returns:
        Every identifier that a page sets in `code`, the last part of a dotted one.
    """
    pages = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "api"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in [*pages, ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
    code = re.findall(r"```.*?```|`[^`\n]+`", text, flags=re.S)
    return frozenset(re.findall(r"[A-Za-z_]\w+", "\n".join(code)))


def exported_names(package: griffe.Object) -> set[str]:
    """Paths of the objects that some `__init__.py` of a package hands on.

    Args:
        package: the loaded package, walked with all that is below it.

    Returns:
        Dotted paths of the objects themselves, not of the names under which they are handed on.
    """
    found = set()
    for member in package.members.values():
        if member.is_alias:
            found.add(str(member.target_path))  # type: ignore[union-attr]
        elif member.is_module and member.is_init_module:
            found |= exported_names(member)  # type: ignore[arg-type]
    return found


def is_shown(name: str, *, kind: str, exported: bool) -> bool:
    """Whether an object has a place on an API page.

    Args:
        name: its last name.
        kind: "class", "function" of a module, "method" of a class, or another of griffe's kinds.
        exported: whether an `__init__.py` hands it on.

    Returns:
        False for private names, for Lightning's hooks and for functions of a module that no page and no `__init__.py` names.
    """
    if name.startswith("_"):
        return False
    if kind == "method":
        return not HOOKS.fullmatch(name)
    return kind != "function" or exported or name in words_of_pages()


class PublicNames(griffe.Extension):
    """Marks what API pages leave unshown; `filters: public` in mkdocs.yml reads the marks."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Walk a package once it is loaded.

        Args:
            pkg: the package.
            **kwargs: what griffe hands over besides.
        """
        self._mark(pkg, exported_names(pkg))

    def _mark(self, parent: griffe.Object, exported: set[str]) -> None:
        for name, member in parent.members.items():
            if member.is_alias:
                continue
            function = member.is_function
            kind = "method" if function and parent.is_class else member.kind.value
            member.public = is_shown(name, kind=kind, exported=member.path in exported)  # type: ignore[union-attr]
            if member.is_class or member.is_module:
                self._mark(member, exported)  # type: ignore[arg-type]
