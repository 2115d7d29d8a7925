"""Plug-ins in one process: what a test imports and registers is gone when it ends."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning_clip.core import plugins
from lightning_clip.core.registry import Registry


@contextmanager
def isolated(folder: Path) -> Iterator[None]:
    """Modules under the folder, their names and their places on `sys.path` are forgotten afterwards.

    Names from files that other tests wrote are not there meanwhile.
    """
    path, loaded = list(sys.path), dict(plugins._loaded)
    plugins._asked.clear()
    plugins._loaded.clear()
    others = [
        (registry, name, factory)
        for registry in registries()
        for name, factory in registry._factories.items()
        if "/pytest-" in file_of(factory.__module__)
    ]
    for registry, name, _ in others:
        del registry._factories[name]
    try:
        yield
    finally:
        sys.path[:] = path
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
        plugins._asked.clear()
        for module in [name for name in sys.modules if file_of(name).startswith(str(folder))]:
            del sys.modules[module]
        for registry in registries():  # of rooms that were imported meanwhile, too
            own = registry._factories
            registry._factories = {key: value for key, value in own.items() if value.__module__ in sys.modules}
        for registry, name, factory in others:
            registry._factories[name] = factory


def registries() -> list[Registry[object]]:
    return [item for item in gc.get_objects() if issubclass(type(item), Registry)]


def file_of(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__file__", None) or "")
