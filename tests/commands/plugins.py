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
    """Modules under the folder, their names and their places on `sys.path` are forgotten afterwards."""
    path, loaded = list(sys.path), dict(plugins._loaded)
    plugins._asked.clear()
    try:
        yield
    finally:
        sys.path[:] = path
        plugins._loaded.clear()
        plugins._loaded.update(loaded)
        plugins._asked.clear()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]
        for registry in [item for item in gc.get_objects() if type(item) is Registry]:
            own = registry._factories
            registry._factories = {key: value for key, value in own.items() if value.__module__ in sys.modules}
