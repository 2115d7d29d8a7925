"""A bounded folder with local copies of remote shards."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from lightning_clip.core.errors import InputError
from lightning_clip.data.shards.index import build_index
from lightning_clip.data.shards.reader import cache_folder, index_path
from lightning_clip.data.shards.remote import DiskError, Remote, RemoteError

__all__ = ["ShardCache"]

log = logging.getLogger(__name__)
_MODIFIED = 0  # of all copies, so that an index fits a shard that was removed and fetched again
_WAIT = 3600.0  # for another process that is fetching the same shard
_FORGIVEN_AFTER = 300.0  # a lost shard is asked for again after so many seconds, not for each of its samples


class ShardCache:
    """Local copies of remote shards, the longest unused ones removed when they take more than `gigabytes`.

    Ranks and workers of a machine share the folder: a shard is fetched once, under a lock, and appears under its name when
    all its bytes are there. Indexes and sizes stay when a shard is removed.

    Args:
        folder: None for `shards` in the folder of `LIGHTNING_CLIP_CACHE`, or in the user's cache folder.
        gigabytes: bound of the shards in it, in 1e9 bytes.
        remote: settings of the transfers.

    Raises:
        InputError: a bound that is not positive.
    """

    def __init__(self, folder: str | Path | None = None, gigabytes: float = 100.0, remote: Remote | None = None) -> None:
        if not gigabytes > 0:
            raise InputError(f"cache_gigabytes {gigabytes} must be positive")
        self.folder = Path(folder).expanduser() if folder else cache_folder() / "shards"
        self.bound, self.remote = int(gigabytes * 1e9), remote or Remote()
        self._lost: dict[str, float] = {}
        self._ahead: ThreadPoolExecutor | None = None

    def path(self, url: str) -> Path:
        """Where the copy stands or will stand."""
        name = PurePosixPath(url.partition("?")[0]).name
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"

    def fetch(self, url: str) -> Path:
        """The local copy, fetched if it is not there.

        Raises:
            RemoteError: the shard could not be fetched; asked again soon, this is answered at once.
            InputError: the disk is full.
        """
        path = self.path(url)
        try:
            os.utime(path, (time.time(), _MODIFIED))  # used just now: the last to be removed
            return path
        except FileNotFoundError:
            pass
        if time.monotonic() - self._lost.get(url, -_FORGIVEN_AFTER) < _FORGIVEN_AFTER:
            raise RemoteError("remote shard missing")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(f"{path}.lock", timeout=_WAIT):
                if not path.exists():
                    self._download(url, path)
        except Timeout as error:
            raise RemoteError(f"another process holds the shard for more than {_WAIT:g} s") from error
        except RemoteError as error:
            self._lost[url] = time.monotonic()
            log.warning("%s: %s", url, error)
            raise
        return path

    def fetch_ahead(self, urls: list[str]) -> None:
        """Begins to fetch shards in the background; what fails there is tried again when it is needed."""
        missing = [url for url in urls if not self.path(url).exists() and url not in self._lost]
        if missing and self._ahead is None:
            self._ahead = ThreadPoolExecutor(max_workers=4, thread_name_prefix="shards ahead")
        for url in missing:
            assert self._ahead is not None
            self._ahead.submit(self._quietly, url)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ahead": None}  # threads do not travel to workers

    def _quietly(self, url: str) -> None:
        try:
            self.fetch(url)
        except (OSError, InputError):
            pass

    def _download(self, url: str, path: Path) -> None:
        size = self.remote.size(url)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with FileLock(self.folder / ".room.lock", timeout=_WAIT):
                self._make_room(size)
                _reserve(beside, size)
            self.remote.download(url, beside, size)
        except OSError as error:
            beside.unlink(missing_ok=True)
            if isinstance(error, DiskError):
                raise InputError(
                    f"{url!r} ({size / 1e6:.1f} MB) cannot be written to {str(self.folder)!r} ({error.strerror}): free some "
                    "room, set a smaller cache_gigabytes or another cache_folder"
                ) from error
            raise
        os.utime(beside, (time.time(), _MODIFIED))
        try:
            # Before others may remove it: its samples can be counted even where many are fetched at once into a small folder.
            build_index(beside, index_path(path))
        except InputError:
            pass  # whoever opens it says what is wrong with it, and gives its name
        beside.replace(path)
        with FileLock(self.folder / ".room.lock", timeout=_WAIT):
            self._make_room(0)  # several that came at once could not make room for each other

    def _make_room(self, size: int) -> None:
        """Removes the longest unused shards; a reader that has one open keeps its bytes. Those on their way count, too."""
        kept, room = [], self.bound - size
        for found in self.folder.iterdir():
            if found.suffix in (".lock", ".index"):
                continue
            try:
                status = found.stat()
                if found.name.startswith(".") and time.time() - status.st_ctime > _WAIT:
                    found.unlink()  # of a process that was killed
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


def _reserve(path: Path, size: int) -> None:
    """A file of full length that takes no room yet, so that other processes reckon with it."""
    try:
        with path.open("wb") as stream:
            stream.truncate(size)
    except OSError as error:
        raise DiskError(error.errno, os.strerror(error.errno or 0)) from error
