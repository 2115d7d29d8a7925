"""Suites that come with the package, by name: the paper's evaluation and what others measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from lightning_clip.core.settings import declared
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.evaluation.limits import limits_suite
from lightning_clip.prompts.evaluation_sets import evaluation_sets

__all__ = ["BUILT_IN", "downloading", "shipped_folder"]


def shipped_folder() -> Path:
    """Where the YAML files of the suites are, to copy and to change.

    Examples:
        >>> sorted(path.stem for path in shipped_folder().glob("*.yaml"))[:2]
        ['chinese', 'compositional']
    """
    return Path(str(files("lightning_clip.evaluation") / "suites"))


def _shipped(path: Path) -> dict[str, Any]:
    """Settings of a suite; files of words stand beside it."""
    suite = read_mapping(path, "suite")
    for spec in suite["sets"].values():
        if "prompts" in spec:
            spec["prompts"] = str(path.parent / spec["prompts"])
    return suite


# Name -> settings of a suite that needs no file.
BUILT_IN: dict[str, Callable[[], dict[str, Any]]] = {
    "limits": limits_suite,
    **{path.stem: partial(_shipped, path) for path in sorted(shipped_folder().glob("*.yaml"))},
}


def downloading(sets: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sets of a suite, and the shifted ones of their protocols, with `download` where a set knows that setting.

    Args:
        sets: name -> a set with its protocols.
    """
    return {name: {**_fetched(spec), "protocols": list(map(_protocol, spec["protocols"]))} for name, spec in sets.items()}


def _protocol(entry: Any) -> Any:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("shifted"), Mapping):
        return entry
    return {**entry, "shifted": {name: _fetched(spec) for name, spec in entry["shifted"].items()}}


def _fetched(spec: Any) -> Any:
    """A set that may be downloaded; what is no such set as it is."""
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    if settings.get("name") not in evaluation_sets.names() or "download" not in declared(
        evaluation_sets.factory(settings["name"])
    ):
        return spec if isinstance(spec, str) else settings
    return {"download": True, **settings}
