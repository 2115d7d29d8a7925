"""Modules of a user's own, by name or path: imported, or an error that names file and line."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path

__all__ = ["from_here", "import_explained", "is_imported", "module_and_name", "path_of"]


def path_of(name: str, folder: str | Path) -> Path | None:
    """The path of a file or a package that a name stands for, or None for the name of a module.

    Examples:
        >>> path_of("my_package.towers", "recipes") is None, path_of("towers.py", "recipes").as_posix()
        (True, 'recipes/towers.py')
    """
    if not (name.endswith(".py") or "/" in name or os.sep in name):
        return None
    path = Path(folder) / Path(name).expanduser()
    return path.parent if path.name == "__init__.py" else path


def from_here(path: Path) -> str:
    """A path as it is typed in the current folder."""
    path, here = path.resolve(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def module_and_name(name: str, folder: str | Path) -> tuple[str, str]:
    """Makes a module known to Python, in this process and those it spawns.

    Args:
        name: of a module, or the path of a .py file or of a package's folder.
        folder: what a path is relative to.

    Returns:
        The module's name, and the module or the whole path.

    Raises:
        InputError: nothing at that path, or a file whose name is no module's or another's.
    """
    path = path_of(name, folder)
    if path is None:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"plug-in {name!r} must be a module such as my_package.towers, or the path of a .py file")
        _search(Path.cwd())
        return name, name
    path = existing_path(path, "plug-in").resolve()
    if not (path.is_file() and path.suffix == ".py") and not (path / "__init__.py").is_file():
        raise InputError(f"plug-in {name!r} must be a .py file, or the folder of a package with __init__.py")
    if not path.stem.isidentifier():
        raise InputError(f"plug-in {str(path)!r} cannot be a module: rename it to letters, digits and underscores")
    _search(path.parent)
    _check_only_one(path.stem, path if path.is_file() else path / "__init__.py")
    return path.stem, str(path)


def is_imported(module: str, path: Path | None) -> bool:
    """Whether a module, or that very file or package, was imported."""
    if path is None:
        return module in sys.modules
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and Path(file).resolve() in (path.resolve(), path.resolve() / "__init__.py")


def import_explained(module: str, shown: str, origin: str = "") -> None:
    """Imports a plug-in.

    Args:
        module: its name.
        shown: what the user calls it.
        origin: more about it, for the message.

    Raises:
        InputError: no such module, or one that fails.
    """
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is None or not f"{module}.".startswith(f"{absent}."):
            raise InputError(f"plug-in {shown!r} failed on import: {_place_of(error)}{origin}") from error
        raise InputError(
            f"plug-in {shown!r} is not there: no module {absent!r} is installed or in {str(Path.cwd())!r}{origin}. Name a "
            "module, or the path of a .py file"
        ) from error


def _search(folder: Path) -> None:
    """Last, so that no file hides an installed module; spawned processes search where their parent does."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _check_only_one(module: str, file: Path) -> None:
    """Refuses a file whose name leads to another module."""
    importlib.invalidate_caches()  # a file that was written just now
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # __main__
        found = None
    origin = found.origin if found else None
    if origin is not None and Path(origin).resolve() != file:
        raise InputError(f"plug-in {str(file)!r} has the name of another module, {origin!r}: rename one of the two")


def _place_of(error: BaseException) -> str:
    """File, line and error: the last line that ran in the plug-in's own files."""
    import traceback  # here: --help must not wait for it

    if isinstance(error, SyntaxError) and error.filename:
        return f"{from_here(Path(error.filename))}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    frames = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    if not frames:
        return text
    first = Path(frames[0].filename)
    files = first.parent if (first.parent / "__init__.py").is_file() else first
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(files)]
    return f"{from_here(Path(own[-1].filename))}, line {own[-1].lineno}: {text}"
