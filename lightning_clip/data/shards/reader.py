"""Tar archives with their index: members and samples by number or name."""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cached_property
from pathlib import Path

from filelock import FileLock

from lightning_clip.core.errors import existing_path
from lightning_clip.data.shards.files import open_files
from lightning_clip.data.shards.index import IndexHeader, Member, TarIndex, build_index, split_name

__all__ = ["TarReader", "cache_folder", "index_path", "open_index", "warn_of_fault"]

log = logging.getLogger(__name__)
_LOCK_SECONDS = 3600  # indexing the largest shard over the slowest disk takes less


class TarReader:
    """An indexed, uncompressed tar archive; cheap to pickle, safe in forked and spawned workers.

    The index is made when the archive is met for the first time, and again when its size or time has changed.

    Args:
        path: the archive.
        warn: whether to say that the archive is cut off; what stands before the cut is used.

    Raises:
        InputError: missing, compressed, or no tar archive.
    """

    def __init__(self, path: str | Path, *, warn: bool = True) -> None:
        self.path = str(existing_path(path, "tar archive").absolute())  # whatever the current folder is later
        self.index = open_index(self.path)
        open_files.forget(self.path)  # it may have been rewritten since it was open
        if warn:
            warn_of_fault(self.path, self.index.header)

    def __len__(self) -> int:
        """Samples that can be used."""
        return len(self.index)

    def sample(self, number: int) -> tuple[str, dict[str, bytes]]:
        """Key and members (extension -> bytes) of a sample, read in one go.

        Raises:
            OSError: the archive was changed or cut since it was indexed.
        """
        members = self.index.sample(number)
        start, end = members[0].offset, members[-1].offset + members[-1].size
        block = memoryview(self._read(start, end - start))
        key = split_name(members[0].name)[0]
        return key, {
            split_name(member.name)[1]: bytes(block[member.offset - start : member.offset - start + member.size])
            for member in members
        }

    def text(self, number: int, extensions: tuple[str, ...]) -> dict[str, bytes]:
        """Only the members of a sample with these extensions, so that captions are read without their images."""
        members = ((split_name(member.name)[1], member) for member in self.index.sample(number))
        return {extension: self._read(member.offset, member.size) for extension, member in members if extension in extensions}

    def names(self) -> list[str]:
        """All members in the order of the archive."""
        return list(self._by_name)

    def read(self, name: str) -> bytes:
        """The bytes of one member.

        Raises:
            KeyError: the archive has no such member.
            OSError: the archive was changed or cut since it was indexed.
        """
        member = self._by_name[name]
        return self._read(member.offset, member.size)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    @cached_property
    def _by_name(self) -> dict[str, Member]:
        return {member.name: member for member in self.index.members()}

    def _read(self, offset: int, size: int) -> bytes:
        return open_files.read(self.path, offset, size)


def open_index(tar: str | Path) -> TarIndex:
    """The index of a local archive, made or renewed where necessary; several processes may ask at once.

    Raises:
        InputError: missing, compressed, or no tar archive.
    """
    path = str(existing_path(tar, "tar archive"))
    status = Path(path).stat()
    for place in (index_path(path), _cached_index_path(path)):
        if (index := _valid(place, status)) is not None:
            return index
    place = index_path(path) if _may_write(Path(path).parent) else _cached_index_path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock", timeout=_LOCK_SECONDS):
        index = _valid(place, status)  # another process may have made it meanwhile
        if index is None:
            if place.exists():
                log.info("%s has changed since it was indexed: indexing it again", path)
            build_index(path, place)
            index = TarIndex(place)
    Path(f"{place}.lock").unlink(missing_ok=True)
    return index


def warn_of_fault(path: str, header: IndexHeader) -> None:
    """Says that an archive is cut off."""
    if header.fault:
        log.warning("shard %s is %s: what stands before is used, %d samples", path, header.fault, header.samples)


def index_path(tar: str | Path) -> Path:
    """Where an index stands: beside its archive."""
    return Path(f"{tar}.index")


def cache_folder() -> Path:
    """For what can be made again: `LIGHTNING_CLIP_CACHE`, or lightning_clip in the user's cache folder."""
    given = os.environ.get("LIGHTNING_CLIP_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given).expanduser() if given else Path(base).expanduser() / "lightning_clip"


def _cached_index_path(tar: str) -> Path:
    name = hashlib.sha256(str(Path(tar).resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "indexes" / f"{name}.index"


def _may_write(folder: Path) -> bool:
    """Whether files may be put there; a folder marked read-only stays untouched even by a superuser."""
    return os.access(folder, os.W_OK) and bool(folder.stat().st_mode & 0o222)


def _valid(place: Path, status: os.stat_result) -> TarIndex | None:
    """The index, unless it is missing, of another version or of another archive."""
    try:
        index = TarIndex(place)
    except (OSError, ValueError, TypeError):
        return None
    header = index.header
    of_it = (header.size, header.modified) == (status.st_size, status.st_mtime_ns)
    return index if of_it and index.is_whole() else None
