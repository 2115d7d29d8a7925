"""Errors of the operating system, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from lightning_clip.core.errors import MACHINE_FAULTS

__all__ = ["reason_of_system", "reason_of_writing"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL = ("No space left", "PytorchStreamWriter failed writing", "database or disk is full")  # torch's and SQLite's


def reason_of_writing(error: BaseException, target: Path) -> str | None:
    """What a user can do about an error of writing; torch and safetensors put the system's word into errors of their own.

    Args:
        error: that was raised.
        target: what was to be written.

    Returns:
        The reason with its remedy, None for an error that is none of the system's.
    """
    if _is_full(error):
        above = next(parent for parent in target.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(above).free / 1e9
        kept = "What was there before is kept" if target.exists() else "Nothing was left there"
        return f"the disk is full ({free:.1f} GB free). {kept}: make room or choose another place"
    if (number := _number(error)) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(number)}. Choose another place"
    if found := re.search(r"open file failed with strerror: ([^\n]+)", str(error)):  # torch's writer
        return f"{found[1].strip()}. Choose another place"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "the name is too long. Choose a shorter one"
    if isinstance(error, NotADirectoryError | FileExistsError):
        return "a file stands where a folder is needed. Choose another place"
    if isinstance(error, IsADirectoryError):
        return "it is a folder. Give the name of a file"
    return None


def reason_of_system(error: BaseException) -> str | None:
    """An error of files or memory that reached the command line, in one line.

    Args:
        error: that was raised.

    Returns:
        What happened, to which file, and what to do; None for an error that is none of the system's.

    Examples:
        >>> reason_of_system(PermissionError(13, "Permission denied", "runs/last.ckpt"))
        "'runs/last.ckpt': Permission denied: choose another place, or ask for the right to use it"
    """
    named = [str(name) for name in (getattr(error, "filename", None),) if name not in (None, -1) and not isinstance(name, int)]
    place = f"{named[0]!r}: " if named else ""
    if _is_full(error):
        return f"{place}the disk is full: make room, or choose another place"
    if "out of memory" in str(error) and type(error).__name__ in ("OutOfMemoryError", "AcceleratorError"):
        return (
            "the device's memory is full: set a smaller local_batch_size or a micro_batch_size, or let fit look for the "
            "largest batch that fits (--find-batch-size)"
        )
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the memory is full: use smaller batches, fewer workers, or a machine with more"
    return _of_files(error, place) if isinstance(error, OSError) else None


def _of_files(error: OSError, place: str) -> str | None:
    """What an error of the file system is, and what to do."""
    if isinstance(error, PermissionError):
        return f"{place}{error.strerror}: choose another place, or ask for the right to use it"
    if error.errno == errno.EROFS:
        return f"{place}the file system can only be read: choose another place"
    if error.errno == errno.ENAMETOOLONG:
        return f"{place[:100]}the name is too long: choose a shorter one"
    if error.errno in MACHINE_FAULTS:
        return f"{place}{MACHINE_FAULTS[error.errno]}"
    if error.errno in (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return f"{place}{error.strerror}"
    return None


def _is_full(error: BaseException) -> bool:
    # torch's writer keeps the system's number to itself; of a zip archive nothing else fails while it is written.
    text = str(error)
    if _number(error) in _NO_ROOM or any(words in text for words in _FULL):
        return True
    return "inline_container" in text and "unexpected pos" in text


def _number(error: BaseException) -> int | None:
    """The system's number of an error; safetensors has it in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
