"""Plug-ins: modules of a user's own that register names when they are imported, by every command alike.

Installed packages name theirs as entry points of the group `lightning_clip.plugins`; they are imported before a name that is
not built in is looked up. Others are imported by `--import MODULE_OR_FILE.py`, or by `imports:` in a recipe that `fit` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.importing import from_here, import_explained, is_imported, module_and_name, path_of

__all__ = [
    "GROUP",
    "PLUGINS_KEY",
    "import_flags",
    "listed_imports",
    "load_installed",
    "load_plugin",
    "loaded_plugins",
    "missing_plugins",
    "plugin_modules",
    "require_plugins",
]

GROUP = "lightning_clip.plugins"
PLUGINS_KEY = "lightning_clip_plugins"  # in a checkpoint: what `loaded_plugins` gave when it was written
_loaded: dict[str, str] = {}  # module -> what `--import` takes to import it
_asked: list[str] = []  # groups of entry points that were imported, or are being imported


def load_plugin(name: str, folder: str | Path = ".") -> str:
    """Imports a plug-in; its classes are then found under the module's name, in loader workers that are spawned too.

    A file becomes a module named after it, and its folder the last of `sys.path`. Modules are found where Python finds them,
    and in the current folder.

    Args:
        name: a module ("my_package.towers"), or the path of a .py file or of a package's folder.
        folder: what a path is relative to.

    Returns:
        What imports it again from any folder: the module, or the whole path.

    Raises:
        InputError: nothing of that name, a file whose name another module has, or a plug-in that fails on import.
    """
    module, whole = module_and_name(name, folder)
    shown = name if whole == name else from_here(Path(whole))
    import_explained(module, shown)
    _loaded[module] = shown
    return whole


def load_installed() -> None:
    """Imports the plug-ins of installed packages, once a process.

    Raises:
        InputError: one of them fails on import.
    """
    if GROUP in _asked:
        return
    from importlib.metadata import entry_points  # here: --help must not wait for it

    _asked.append(GROUP)
    try:
        for entry in entry_points(group=GROUP):
            package = entry.dist.name if entry.dist else "an installed package"
            import_explained(entry.module, entry.module, f" (of the installed package {package}: mend or uninstall it)")
            _loaded[entry.module] = entry.module
    except InputError:
        _asked.remove(GROUP)  # said again by the next who asks
        raise


def loaded_plugins() -> list[str]:
    """What was imported as a plug-in, in that order, as `--import` takes it; a checkpoint stores it under `PLUGINS_KEY`."""
    return list(_loaded.values())


def plugin_modules() -> list[str]:
    """Names of the modules that were imported as plug-ins."""
    return list(_loaded)


def missing_plugins(names: Iterable[str], folder: str | Path = ".") -> list[str]:
    """Those of some plug-ins that are not imported here, in whatever way.

    Args:
        names: as `loaded_plugins` gives them or `imports:` lists them.
        folder: what paths are relative to.
    """
    missing = []
    for name in names:
        path = path_of(name, folder)
        module = name if path is None else path.stem
        if module not in _loaded and not is_imported(module, path):
            missing.append(name)
    return missing


def require_plugins(given: Any, where: str, folder: str | Path = ".") -> None:
    """Checks that what a file's `imports:` names was imported: only `fit` imports it by itself.

    Args:
        given: the value of `imports`, None where there is none.
        where: the file, for the message ("suite 'suite.yaml'").
        folder: what paths are relative to.

    Raises:
        InputError: a plug-in that is not there, with the flag that imports it, or no list.
    """
    if missing := missing_plugins(listed_imports(given, where), folder):
        shown = [name if (path := path_of(name, folder)) is None else from_here(path) for name in missing]
        raise InputError(f"{where} asks for imports, which only `lightning-clip fit` does by itself: add {import_flags(shown)}")


def listed_imports(given: Any, where: str) -> list[str]:
    """The value of `imports` as a list.

    Raises:
        InputError: it is no list of texts.
    """
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"{where}: imports {given!r} must be a list of modules and paths of .py files, [my_package, my_file.py]"
        )
    return given


def import_flags(names: Iterable[str]) -> str:
    """The flags that import plug-ins.

    Examples:
        >>> import_flags(["my_package", "towers.py"])
        '--import my_package --import towers.py'
    """
    return " ".join(f"--import {name}" for name in names)
