"""Files that are whole or not there: written beside their place, renamed when complete."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.core.system_errors import reason_of_writing

__all__ = ["beside", "place_beside", "remove_leftovers", "removed_on_failure", "safe_name", "sync", "sync_entry", "take_place"]

_ABANDONED = 3600  # seconds in which nothing was written


@contextmanager
def beside(path: str | Path, *, folder: bool = False, durable: bool = False) -> Iterator[Path]:
    """A place to write to, which takes the name `path` when the block ends, and of which nothing is left if it fails.

    Whoever reads `path` meanwhile finds what was there before. The place has the same ending, since many writers go by it.
    Folders above are made.

    Args:
        path: of the file or folder to be.
        folder: make a folder instead of leaving the place empty; `path` must not exist then.
        durable: have it on the disk before the name is given, and remove what killed writers of `path` left beside it.

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
    place = place_beside(target, f"{os.getpid()}@{safe_name(socket.gethostname())}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if durable:
            remove_leftovers(target)
        if folder:
            place.mkdir()
        yield place
        if durable:
            sync(place)
        take_place(place, target)
        if durable:
            sync_entry(target.parent)
    except BaseException as error:
        shutil.rmtree(place, ignore_errors=True)
        with suppress(OSError):  # what could not be made cannot be removed
            place.unlink()
        if isinstance(error, Exception) and not isinstance(error, InputError) and (reason := reason_of_writing(error, target)):
            raise InputError(f"{str(path)!r} cannot be written: {reason}") from error
        raise


@contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Leaves nothing under `path` if the block fails.

    Args:
        path: of a file that the block writes.

    Examples:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "a.partial"
        >>> with suppress(ValueError), removed_on_failure(place):
        ...     _ = place.write_text("half")
        ...     raise ValueError
        >>> place.exists()
        False
    """
    try:
        yield
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def place_beside(target: Path, writer: str) -> Path:
    """Where a writer (process@machine, or any other word) builds what will be called `target`."""
    return target.with_name(f".{target.stem}.{writer}.partial{target.suffix}")


def take_place(place: Path, target: Path) -> None:
    """Gives `place` the name `target`; what had it is removed afterwards.

    Files are renamed. Where one of them is a folder the two are exchanged, so that `target` is there at any moment; on
    filesystems that cannot do that, what was there is called `NAME.previous.ENDING` for a moment.
    """
    if not target.is_dir() and not (place.is_dir() and target.exists()):
        place.replace(target)
        return
    if _exchanged(place, target):
        old = place
    else:
        old = target.with_name(f"{target.stem}.previous{target.suffix}")
        _remove(old)
        target.replace(old)
        place.replace(target)
    sync_entry(target.parent)
    _remove(old)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether two names could be exchanged in one step: Linux has it, Python has not."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if exchange is None:
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(exchange(here, os.fsencode(one), here, os.fsencode(other), swap) == 0)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Waits until a file, or a folder with all its files, is on the disk."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            sync_entry(file)
    if path.is_dir():
        sync_entry(path)


def sync_entry(path: Path) -> None:
    """Waits until a file, or the list of names in a folder, is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # filesystems that do not sync folders
            raise
    finally:
        os.close(number)


def remove_leftovers(target: Path) -> None:
    """Removes what writers of `target` left that were killed: of this machine if they are gone, of others after an hour."""
    machine = safe_name(socket.gethostname())
    for left in target.parent.glob(f".{glob.escape(target.stem)}.*.partial{glob.escape(target.suffix)}"):
        writer = left.name[len(target.stem) + 2 : -len(f".partial{target.suffix}")]
        process, _, where = writer.partition("@")
        with suppress(OSError):  # another process of the run may be faster
            gone = not _is_alive(int(process)) if where == machine and process.isdigit() else False
            if gone or time.time() - left.stat().st_mtime > _ABANDONED:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def safe_name(name: str) -> str:
    """A name as part of a file's name on any system: letters and digits of any script, "-", "_" and "." stay as they are.

    Examples:
        >>> safe_name("open_clip ViT-B/32: v1.5")
        'open_clip_ViT-B_32__v1.5'
    """
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
