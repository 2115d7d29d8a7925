"""Files that no person put into a data set: what systems and programs leave behind."""

from __future__ import annotations

from pathlib import PurePosixPath

__all__ = ["is_hidden"]

_NOT_OURS = frozenset({"__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "lost+found"})


def is_hidden(name: str) -> bool:
    """Whether a path leads through what a system or program left behind, such as `.ipynb_checkpoints` or `__MACOSX`.

    Args:
        name: a path with / between folders.

    Examples:
        >>> is_hidden("cats/._1.jpg"), is_hidden("./cats/1.jpg")
        (True, False)
    """
    return any(part.startswith(".") or part in _NOT_OURS for part in PurePosixPath(name).parts)
