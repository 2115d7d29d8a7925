"""Files of the cache of shards: their versions, the room that they take, and what is no shard."""

from __future__ import annotations

import os
import time
from pathlib import Path

from lightning_clip.data.shards.index import TarIndex
from lightning_clip.data.shards.reader import index_path
from lightning_clip.data.shards.remote_errors import DiskError

__all__ = ["is_no_tar", "known_index", "make_room", "reserve", "touched", "version_of", "versioned"]

_SECOND = 1_000_000_000  # ns


def touched(path: Path) -> bool:
    """Marks a copy as used now, its version kept; False where there is none."""
    try:
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    except FileNotFoundError:
        return False
    except OSError:  # of a folder that others fill, or no folder at all
        return path.exists()
    return True


def versioned(path: Path, version: int) -> None:
    """Writes a copy's version down, as its time: an index keeps that of its archive."""
    os.utime(path, ns=(time.time_ns(), version * _SECOND))


def version_of(path: Path) -> tuple[int, int] | None:
    """Size and version of a copy, or of the shard that an index was made of; None where neither is there."""
    try:
        status = path.stat()
        return status.st_size, status.st_mtime_ns // _SECOND
    except OSError:
        index = known_index(path)
        return None if index is None else (index.header.size, index.header.modified // _SECOND)


def known_index(path: str | Path) -> TarIndex | None:
    """The index beside a shard, which stays in a cache when the shard is removed."""
    try:
        return TarIndex(index_path(str(path)))
    except (OSError, ValueError, TypeError):
        return None


def reserve(path: Path, size: int) -> None:
    """A file of full length that takes no room yet, so that other processes reckon with it.

    Raises:
        DiskError: the disk does not take it.
    """
    try:
        with path.open("wb") as stream:
            stream.truncate(size)
    except OSError as error:
        raise DiskError(error.errno, os.strerror(error.errno or 0)) from error


def make_room(folder: Path, room: int, patience: float) -> None:
    """Removes the longest unused shards until the others take no more than `room`; those on their way count, too.

    A reader that has a shard open keeps its bytes.

    Args:
        folder: of the cache.
        room: bytes.
        patience: seconds after which a file on its way is of a process that was killed.
    """
    kept = []
    for found in folder.iterdir():
        if found.suffix in (".lock", ".index"):
            continue
        try:
            status = found.stat()
            if found.name.startswith(".") and time.time() - status.st_ctime > patience:
                found.unlink()
                continue
        except FileNotFoundError:
            continue  # another process removed or finished it
        room -= status.st_size
        if not found.name.startswith("."):
            kept.append((status.st_atime, status.st_size, found))
    for _, bytes_, found in sorted(kept):
        if room >= 0:
            return
        found.unlink(missing_ok=True)
        room += bytes_


def is_no_tar(path: Path) -> str:
    """What came in the place of a shard."""
    with path.open("rb") as stream:
        begin = stream.read(512)
    if begin.startswith(b"\x1f\x8b"):
        return "is compressed, and shards far away must not be"
    if begin.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<", b"{")):
        text = " ".join(begin.decode("utf-8", "replace").split())[:60]
        return f"is a page and no tar archive ({text!r})"
    return f"is no tar archive (it begins with {begin[:20]!r})"
