"""`restricted`: while a command reads files of others, nothing that they name is run or imported.

A recipe is a program: it names classes, and a stream names a shell command. `fit`, `validate`, `test` and `predict` run what
they are given; every other command only reads, unless `--trust` says that the author is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lightning_clip.core.errors import InputError
from lightning_clip.core.plugins import plugin_modules

__all__ = ["SAFE", "check_import", "check_trusted", "restricted", "safe_modules", "typed"]

# Their classes are built by recipes everywhere, and running none of them does what a recipe's author might want.
SAFE = ("lightning_clip", "lightning.pytorch", "pytorch_lightning", "torch.nn", "torch.optim")
_commands: list[str | None] = [None]  # the last one is under way; None runs what it is given


@contextmanager
def restricted(command: str) -> Iterator[None]:
    """While it lasts, files are data.

    Args:
        command: its name, for messages ("plan").
    """
    _commands.append(command)
    try:
        yield
    finally:
        _commands.pop()


@contextmanager
def typed() -> Iterator[None]:
    """Around what the user has typed: a command or a flag on the command line is the user's own word, no file's."""
    _commands.append(None)
    try:
        yield
    finally:
        _commands.pop()


def safe_modules() -> list[str] | None:
    """Beginnings of the names of classes that a file may name now; None where it may name all."""
    return None if _commands[-1] is None else [*SAFE, *plugin_modules()]


def check_import(path: str) -> None:
    """Refuses a class or function that a file names, before its module is imported.

    Args:
        path: such as "my_package.MyModule".

    Raises:
        InputError: the command under way imports nothing that files name, and the module is neither one of ours nor imported
            by `--import`.
    """
    allowed = safe_modules()
    if allowed is not None and not any(f"{path}.".startswith(f"{root}.") for root in allowed):
        module = path.rpartition(".")[0] or path
        raise InputError(
            f"{path!r} is named by a file, and {_commands[-1]} imports nothing that files name: add --import {module}, or "
            "--trust if you trust the file's author"
        )


def check_trusted(what: str) -> None:
    """Refuses what would run something, where a file asks for it.

    Args:
        what: it is and does ("stream 'pipe:cat a.tar' runs a command").

    Raises:
        InputError: the command under way runs nothing that files name.
    """
    if _commands[-1] is not None:
        raise InputError(
            f"{what}, and {_commands[-1]} runs nothing that files name: add --trust if you trust the file's author"
        )
