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

from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.data.shards.addresses import shown
from lightning_clip.data.shards.cache_files import is_no_tar, make_room, reserve, touched, version_of, versioned
from lightning_clip.data.shards.index import build_index
from lightning_clip.data.shards.reader import cache_folder, index_path
from lightning_clip.data.shards.remote import Remote, RemoteFile
from lightning_clip.data.shards.remote_errors import DiskError, RemoteError

__all__ = ["ShardCache"]

log = logging.getLogger(__name__)
_WAIT = 3600.0  # for another process that is fetching the same shard
_FORGIVEN_AFTER = 300.0  # a lost shard is asked for again after so many seconds, not for each of its samples


class ShardCache:
    """Local copies of remote shards, the longest unused ones removed when they take more than `gigabytes`.

    Ranks and workers of a machine share the folder: a shard is fetched once, under a lock, and appears under its name when
    all its bytes are there and are a tar archive. Indexes stay when a shard is removed. The time of a copy and of its index
    is the version that the server names (ETag, or the time of the last change), so that neither fits another content.

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
        self._lost: dict[str, tuple[float, RemoteError]] = {}
        self._ahead: ThreadPoolExecutor | None = None
        self._unreachable = False

    def path(self, url: str) -> Path:
        """Where the copy stands or will stand."""
        name = PurePosixPath(url.partition("?")[0]).name
        return self.folder / f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{name}"

    def fetch(self, url: str) -> Path:
        """The local copy, fetched if it is not there.

        Raises:
            RemoteError: the shard could not be fetched; asked again soon, this is answered at once.
            InputError: the disk is full, or the folder cannot be written.
        """
        path = self.path(url)
        if touched(path):  # used just now: the last to be removed
            return path
        since, error = self._lost.get(url, (-_FORGIVEN_AFTER, None))
        if error is not None and time.monotonic() - since < _FORGIVEN_AFTER:
            raise RemoteError(str(error), error.lasting, error.status)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{path}.lock", timeout=_WAIT):
                if not path.exists():
                    self._download(url, path)
        except Timeout as late:
            raise RemoteError(f"{shown(url)}: another process holds it for more than {_WAIT:g} s") from late
        except RemoteError as failed:
            self._lost[url] = (time.monotonic(), failed)
            log.warning("%s", failed)
            raise
        except OSError as refused:
            reason_of(refused)
            raise InputError(
                f"cache_folder {str(self.folder)!r} cannot be written ({refused.strerror or refused}): "
                "give a cache_folder of your own"
            ) from refused
        return path

    def renew(self, url: str) -> None:
        """Forgets the copy and the index of a shard that the server has in another version by now.

        Raises:
            RemoteError: the server does not give an answer, and there is no copy to go on with.
        """
        path = self.path(url)
        known = version_of(path)
        if known is None or (path.exists() and self._unreachable):
            return
        try:
            now = self.remote.info(url, tries=1 if path.exists() else None)
        except RemoteError as error:
            if not path.exists():
                raise
            if not error.lasting and not self._unreachable:
                self._unreachable = True  # with all shards at hand, a run needs no network
                log.warning("%s: going on with the copies in %s, which may be out of date", error, self.folder)
            return
        if not _differs(known, now):
            return
        with FileLock(f"{path}.lock", timeout=_WAIT):
            if (known := version_of(path)) is not None and _differs(known, now):  # no other process was faster
                log.info("%s has changed: it is fetched again", shown(url))
                self.forget(url)

    def forget(self, url: str) -> None:
        """Removes a copy and its index."""
        path = self.path(url)
        path.unlink(missing_ok=True)
        index_path(path).unlink(missing_ok=True)

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
        said = self.remote.info(url)
        beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        try:
            with FileLock(self.folder / ".room.lock", timeout=_WAIT):
                make_room(self.folder, self.bound - (said.size or 0), _WAIT)
                reserve(beside, said.size or 0)
            # Indexed before others may remove it: its samples can be counted even where many are fetched into a small folder.
            self.remote.download(url, beside, said.size, lambda: self._check(url, said, beside, path))
            beside.replace(path)
        except DiskError as error:
            raise InputError(
                f"{shown(url)!r} ({(said.size or 0) / 1e6:.1f} MB) cannot be written to {str(self.folder)!r} "
                f"({error.strerror}): free some room, set a smaller cache_gigabytes or another cache_folder"
            ) from error
        finally:
            beside.unlink(missing_ok=True)
        with FileLock(self.folder / ".room.lock", timeout=_WAIT):
            make_room(self.folder, self.bound, _WAIT)  # several that came at once could not make room for each other

    def _check(self, url: str, said: RemoteFile, beside: Path, path: Path) -> None:
        """Writes the index of what came; what is no tar, such as the page of a login, is not kept."""
        versioned(beside, said.version)
        try:
            header = build_index(beside, index_path(path))
        except InputError as error:
            raise RemoteError(f"{shown(url)}: {is_no_tar(beside)}", lasting=True) from error
        if header.fault and said.size is None:  # nothing else tells that the transfer ended early
            raise OSError(f"the server states no length, and what came is {header.fault}")


def _differs(known: tuple[int, int], now: RemoteFile) -> bool:
    size, version = known
    return now.size not in (None, size) or now.version != version
