"""Files that are whole or not there: written beside their place, renamed when complete."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_clip.core.errors import InputError

__all__ = ["beside", "safe_name"]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def beside(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """A place to write to, which takes the name `path` when the block ends, and of which nothing is left if it fails.

    Whoever reads `path` meanwhile finds what was there before. The place has the same ending, since many writers go by it.
    Folders above are made.

    Args:
        path: of the file or folder to be.
        folder: make a folder instead of leaving the place empty; `path` must not exist then.

    Raises:
        InputError: no room on the disk, no right to write there, or a name that is too long.

    Examples:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "table.csv"
        >>> with beside(target) as place:
        ...     _ = place.write_text("a,b")
        ...     target.exists()
        False
        >>> target.read_text()
        'a,b'
    """
    target = Path(path).expanduser()
    place = target.with_name(f".{target.stem}.{os.getpid()}.partial{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if folder:
            place.mkdir()
        yield place
        place.replace(target)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # what could not be made cannot be removed
            place.unlink()
        if isinstance(error, Exception) and not isinstance(error, InputError) and (reason := _reason(error, target)):
            raise InputError(f"{str(path)!r} cannot be written: {reason}") from error
        raise


def safe_name(name: str) -> str:
    """A name as part of a file's name on any system: letters and digits of any script, "-", "_" and "." stay as they are.

    Examples:
        >>> safe_name("open_clip ViT-B/32: v1.5")
        'open_clip_ViT-B_32__v1.5'
    """
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _reason(error: Exception, target: Path) -> str | None:
    """What a user can do about an error of writing; torch and safetensors put the system's word into errors of their own."""
    if _number(error) in _NO_ROOM or "No space left" in str(error):
        above = next(parent for parent in target.absolute().parents if parent.is_dir())
        free = shutil.disk_usage(above).free / 1e9
        return f"the disk is full ({free:.1f} GB free). Nothing was left there: make room or choose another place"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return f"{error.strerror}. Choose another place"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "the name is too long. Choose a shorter one"
    return None


def _number(error: Exception) -> int | None:
    """The system's number of an error; safetensors has it in its text."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None
