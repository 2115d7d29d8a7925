"""Plug-ins: modules of a user's own that register names when they are imported, by every command alike.

Installed packages name theirs as entry points of the group `lightning_clip.plugins`; they are imported before a name that is
not built in is looked up. Others are imported by `--import MODULE_OR_FILE.py`, or by `imports:` in a recipe that `fit` reads.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path

__all__ = [
    "GROUP",
    "PLUGINS_KEY",
    "import_flags",
    "listed_imports",
    "load_installed",
    "load_plugin",
    "loaded_plugins",
    "missing_plugins",
    "require_plugins",
]

GROUP = "lightning_clip.plugins"
PLUGINS_KEY = "lightning_clip_plugins"  # in a checkpoint: what `loaded_plugins` gave when it was written
_loaded: dict[str, str] = {}  # module -> what `--import` takes to import it
_asked: list[str] = []  # groups of entry points that were imported, or are being imported


def load_plugin(name: str, folder: str | Path = ".") -> str:
    """Imports a plug-in; its classes are then found under the module's name, in loader workers that are spawned too.

    A file becomes a module named after it, and its folder the last of `sys.path`. Modules are found where Python finds them, and
    in the current folder.

    Args:
        name: a module ("my_package.towers"), or the path of a .py file or of a package's folder.
        folder: what a path is relative to.

    Returns:
        What `--import` takes to import it again from the current folder.

    Raises:
        InputError: nothing of that name, a file whose name another module has, or a plug-in that fails on import.
    """
    path = _path_of(name, folder)
    if path is None:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"plug-in {name!r} must be a module such as my_package.towers, or the path of a .py file")
        module, shown = name, name
        _search(Path.cwd())
    else:
        module, shown = path.stem, _from_here(path)
        _search(path.parent)
        _check_name(module, path)
    importlib.invalidate_caches()  # a file that was written just now
    _import(module, shown)
    _loaded[module] = shown
    return shown


def load_installed() -> None:
    """Imports the plug-ins of installed packages, once a process.

    Raises:
        InputError: one of them fails on import.
    """
    if GROUP in _asked:
        return
    _asked.append(GROUP)
    try:
        for entry in entry_points(group=GROUP):
            package = entry.dist.name if entry.dist else "an installed package"
            _import(entry.module, entry.module, f" (of the installed package {package}: mend or uninstall it)")
            _loaded[entry.module] = entry.module
    except InputError:
        _asked.remove(GROUP)  # said again by the next who asks
        raise


def loaded_plugins() -> list[str]:
    """What was imported as a plug-in, in that order, as `--import` takes it; a checkpoint stores it under `PLUGINS_KEY`."""
    return list(_loaded.values())


def missing_plugins(names: Iterable[str], folder: str | Path = ".") -> list[str]:
    """Those of some plug-ins that are not imported here, in whatever way.

    Args:
        names: as `loaded_plugins` gives them or `imports:` lists them.
        folder: what paths are relative to.
    """
    return [name for name in names if not _is_here(name, folder)]


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
        shown = [name if (path := _path(name, folder)) is None else _from_here(path) for name in missing]
        raise InputError(f"{where} asks for imports, which only `lightning-clip fit` does by itself: add {import_flags(shown)}")


def listed_imports(given: Any, where: str) -> list[str]:
    """The value of `imports` as a list.

    Raises:
        InputError: it is no list of texts.
    """
    if given is None:
        return []
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError(f"{where}: imports {given!r} must be a list of modules and paths of .py files, [my_package, my_file.py]")
    return given


def import_flags(names: Iterable[str]) -> str:
    """The flags that import plug-ins.

    Examples:
        >>> import_flags(["my_package", "towers.py"])
        '--import my_package --import towers.py'
    """
    return " ".join(f"--import {name}" for name in names)


def _path(name: str, folder: str | Path) -> Path | None:
    """The path that a name stands for, or None for a module's name."""
    if not (name.endswith(".py") or "/" in name or os.sep in name):
        return None
    path = Path(folder) / Path(name).expanduser()
    return path.parent if path.name == "__init__.py" else path


def _path_of(name: str, folder: str | Path) -> Path | None:
    """As `_path`, for what is there and can be imported."""
    path = _path(name, folder)
    if path is None:
        return None
    path = existing_path(path, "plug-in").resolve()
    if not (path.is_file() and path.suffix == ".py") and not (path / "__init__.py").is_file():
        raise InputError(f"plug-in {name!r} must be a .py file, or the folder of a package with __init__.py")
    return path


def _from_here(path: Path) -> str:
    """A path as it is typed in the current folder."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _search(folder: Path) -> None:
    """Last, so that no file hides an installed module; spawned processes search where their parent does."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _check_name(module: str, path: Path) -> None:
    """A file's name as a module must be valid, and no other module's."""
    if not module.isidentifier():
        raise InputError(f"plug-in {str(path)!r} cannot be a module: rename it to letters, digits and underscores")
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # __main__
        found = None
    file = path if path.is_file() else path / "__init__.py"
    origin = found.origin if found else None
    if origin is not None and Path(origin).resolve() != file:
        raise InputError(f"plug-in {str(path)!r} has the name of another module, {origin!r}: rename one of the two")


def _is_here(name: str, folder: str | Path) -> bool:
    path = _path(name, folder)
    module = name if path is None else path.stem
    if module in _loaded or path is None:
        return module in _loaded or module in sys.modules
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).resolve() in (path.resolve(), path.resolve() / "__init__.py")


def _import(module: str, shown: str, origin: str = "") -> None:
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if not absent:
            raise InputError(f"plug-in {shown!r} failed on import: {_place_of(error)}{origin}") from error
        raise InputError(
            f"plug-in {shown!r} is not there: no module {error.name!r} is installed or in {str(Path.cwd())!r}{origin}. Name a "
            "module, or the path of a .py file"
        ) from error


def _place_of(error: BaseException) -> str:
    """File, line and error: the last line that ran in the plug-in's own files."""
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_from_here(Path(error.filename))}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    frames = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    if not frames:
        return text
    first = Path(frames[0].filename)
    own = [
        frame
        for frame in frames
        if frame.filename == str(first) or (first.name == "__init__.py" and Path(frame.filename).is_relative_to(first.parent))
    ]
    return f"{_from_here(Path(own[-1].filename))}, line {own[-1].lineno}: {text}"
