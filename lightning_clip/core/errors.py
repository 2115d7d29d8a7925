"""The one exception for mistakes a user can mend: the CLI prints it as a single line and exits with code 2."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from pathlib import Path

from lightning_clip.core.shipped import shipped_file

__all__ = ["IMPORT_HINT", "MACHINE_FAULTS", "InputError", "UnknownName", "existing_path", "nearest", "reason_of"]

IMPORT_HINT = "If a module of yours registers it, add --import MODULE_OR_FILE.py"


class InputError(ValueError):
    """A wrong value from outside: its message names the value, what was expected and the remedy."""


class UnknownName(InputError):
    """A name that nothing built in and no plug-in at hand has registered.

    Args:
        message: says so.
        kind: of thing that was asked for ("loss").
        name: that was given.
    """

    def __init__(self, message: str, kind: str = "", name: str = "") -> None:
        super().__init__(message)
        self.kind, self.name = kind, name

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """The error with the nearest known name, or with the flag that imports what registers it.

        Examples:
            >>> str(UnknownName.of("loss", "huber", ["sigmoid", "softmax"]))
            "unknown loss 'huber': Known: sigmoid, softmax. If a module of yours registers it, add --import MODULE_OR_FILE.py"
        """
        hint = nearest(name, known)
        if not hint.startswith("did you mean"):
            hint += f". {IMPORT_HINT}"
        return cls(f"unknown {kind} {name!r}: {hint}", kind, name)


def nearest(name: str, known: Iterable[str]) -> str:
    """Says which known names there are, and which is closest to a misspelt one.

    Examples:
        >>> nearest("sofmax", ["sigmoid", "softmax"])
        "did you mean 'softmax'? Known: sigmoid, softmax"
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    listing = "Known: " + ", ".join(names)
    return f"did you mean {close[0]!r}? {listing}" if close else listing


def existing_path(path: str | Path, what: str) -> Path:
    """Returns `path` with `~` expanded, or says which file of what kind is missing and what its folder holds.

    A path such as `recipes/demo.yaml` that is not there is the file of that name that ships with the package.

    Raises:
        InputError: the path does not exist.
    """
    found = Path(path).expanduser()
    if found.exists():
        return found
    if (shipped := shipped_file(found)) is not None:
        return shipped
    parent = found.parent
    if not parent.is_dir():
        raise InputError(f"{what} {str(path)!r} does not exist: there is no folder {str(parent)!r} either. Check the path.")
    beside = sorted(entry.name for entry in parent.iterdir())
    hint = nearest(found.name, beside[:20]) if beside else "the folder is empty"
    raise InputError(f"{what} {str(path)!r} does not exist. In {str(parent)!r}: {hint}")


# Faults of the machine or of what it is connected to: the next sample would meet them, too.
MACHINE_FAULTS = {
    errno.EMFILE: "too many files are open: raise the limit of open files (ulimit -n), or use fewer workers",
    errno.ENFILE: "too many files are open on this machine: close some, or use fewer workers",
    errno.ENOSPC: "there is no space left: make room, and run again",
    errno.EDQUOT: "the quota is used up: make room, and run again",
    errno.EIO: "a disk or network drive failed: check it, and run again",
    errno.ESTALE: "a network drive was mounted again meanwhile: run again",
    errno.ENOMEM: "there is no memory left: use fewer workers or smaller batches",
}


def reason_of(error: BaseException) -> str:
    """Why a sample cannot be used, in a few words: the error's message, or its kind where it has none.

    Args:
        error: met while a sample was read.

    Raises:
        InputError: it is no fault of the sample's but of the machine's, such as a full disk, and must end the run: samples that
            are skipped for it would be missing for ever.

    Examples:
        >>> reason_of(KeyError("no class name")), reason_of(OSError())
        ('no class name', 'OSError')
    """
    if isinstance(error, OSError) and error.errno in MACHINE_FAULTS:
        raise InputError(f"reading {error.filename or 'a sample'}: {MACHINE_FAULTS[error.errno]}") from error
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__
