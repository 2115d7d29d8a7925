"""A lock on a place that is written to: the second of two processes is told in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from lightning_clip.core.atomic import safe_name
from lightning_clip.core.errors import InputError

__all__ = ["only_writer", "writer_of"]


@contextmanager
def only_writer(path: str | Path, argument: str) -> Iterator[None]:
    """Lets one process at a time write to `path`; the next one does not wait but learns who is at work.

    A hidden file beside `path` holds the lock while the block lasts. The system takes the lock back from a process that is
    killed, so that nothing needs to be cleaned up. Where no such file can be made, as in a folder without the right to write,
    there is no lock: the writing itself says what is wrong.

    Args:
        path: of what is to be written, or a pattern of it; it need not exist.
        argument: by which the user named it, for the error.

    Raises:
        InputError: another process (or thread) is writing there.

    Examples:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp()) / "model"
        >>> with only_writer(place, "--output"):
        ...     with only_writer(place, "--output"):
        ...         pass
        Traceback (most recent call last):
        lightning_clip.core.errors.InputError: --output ... is being written by process ...
    """
    target = Path(path).expanduser()
    held = target.with_name(f".{safe_name(target.name)}.lock")
    note = held.with_suffix(".lock.by")  # a lock file itself cannot be read everywhere while it is held
    lock = FileLock(held, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(
            f"{argument} {str(path)!r} is being written by {_holder(note)}: wait until it has ended, or choose another place"
        ) from None
    except (OSError, NotImplementedError):  # read-only, full, or a filesystem without locks
        yield
        return
    try:
        with suppress(OSError):
            note.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        for left in (note, held):  # while the lock is held: whoever waits for the name finds it gone and makes another
            with suppress(OSError):
                left.unlink()
        lock.release()


def writer_of(path: str | Path) -> str:
    """Who is writing to a place by `only_writer`, such as "process 12 on here"; empty where nobody is.

    Nothing is locked to find out, so that a writer who begins at this moment is not disturbed. Of another machine, or on
    Windows, a writer that was killed counts as at work until the next one has ended.

    Args:
        path: as given to `only_writer`.
    """
    target = Path(path).expanduser()
    held = target.with_name(f".{safe_name(target.name)}.lock")
    note = held.with_suffix(".lock.by")
    if not held.exists() or not note.exists():
        return ""
    holder = _holder(note)
    words = holder.split()
    if os.name == "nt" or len(words) != 4 or words[3] != socket.gethostname() or not words[1].isdigit():
        return holder
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return ""
    except OSError:  # of another user
        pass
    return holder


def _holder(note: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        if text := note.read_text().strip()[:200]:
            return text
    return "another process"
