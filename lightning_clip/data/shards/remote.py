"""Files behind URLs, of any file system that fsspec knows: read with retries and without ever waiting for ever."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from lightning_clip.core.errors import InputError
from lightning_clip.data.shards.addresses import is_http, shown
from lightning_clip.data.shards.remote_errors import (
    DiskError,
    RemoteError,
    is_lasting,
    is_missing,
    reason_of_remote,
    seconds_to_wait,
    status_of,
)
from lightning_clip.data.shards.transfers import CHUNK, copied, within

__all__ = ["Remote", "RemoteFile"]

log = logging.getLogger(__name__)
T = TypeVar("T")
# What tells one content from another, as the clients call it; the first that a file has.
_VALIDATORS = (
    "ETag",
    "etag",
    "Content-MD5",
    "Digest",
    "md5Hash",
    "blob_id",
    "Last-Modified",
    "LastModified",
    "last_modified",
    "updated",
    "mtime",
    "created",
)


class RemoteFile(NamedTuple):
    """What a server says of a file.

    Attributes:
        size: bytes; None where it does not say, or compresses what it sends.
        version: a number that changes with the content (of the ETag or the time of the last change), 0 where it says nothing.
    """

    size: int | None
    version: int


@dataclass(frozen=True)
class Remote:
    """Settings of every transfer.

    What passes (5xx, 429, a refused or broken connection, no name for the host, silence) is tried again, `tries` times in all;
    what lasts (401, 403, 404) is not.

    Args:
        tries: how often a transfer is begun, at least 1; between two tries it waits 1, 2, 4 ... `pause` seconds, or as long as
            the server asks for, up to a minute.
        stall: seconds without an answer, or without a byte, after which a transfer counts as failed.
        pause: seconds before the second try.
        storage_options: of the fsspec file system: headers, tokens, keys. They are never shown.
    """

    tries: int = 4
    stall: float = 60.0
    pause: float = 1.0
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def info(self, url: str, tries: int | None = None) -> RemoteFile:
        """Size and version of a remote file.

        Args:
            url: of the file.
            tries: other than those of this object.

        Raises:
            RemoteError: missing, or no answer.
        """

        def ask() -> RemoteFile:
            system, path = self._system(url)
            found = within(self.stall, lambda: _fresh_info(system, path))
            token = next((str(found[key]) for key in _VALIDATORS if found.get(key)), None)
            size = found.get("size")
            # A time on every disk: from 1 to 2^31 - 1.
            version = 0 if token is None else 1 + zlib.crc32(token.encode()) % ((1 << 31) - 1)
            return RemoteFile(None if size is None else int(size), version)

        return self._tried(url, ask, tries)

    def read(self, url: str) -> bytes | None:
        """A small file, or None if there is none.

        Raises:
            RemoteError: no right to read it, or no answer.
        """

        def ask() -> bytes:
            system, path = self._system(url)
            return bytes(within(self.stall, lambda: system.cat_file(path)))

        try:
            return self._tried(url, ask)
        except RemoteError as error:
            if is_missing(error):
                return None
            raise

    def matches(self, pattern: str) -> list[str]:
        """URLs that match a pattern with stars, sorted; none where the folder can be listed and holds none.

        Raises:
            RemoteError: the folder cannot be listed.
        """

        def ask() -> list[str]:
            system, path = self._system(pattern)

            def look() -> list[str]:
                # fsspec finds nothing where it could not look; to list the folder then tells why.
                return system.glob(path) or (system.ls(path.partition("*")[0].rpartition("/")[0], detail=False) and [])

            return sorted(system.unstrip_protocol(found) for found in within(self.stall, look))

        return self._tried(pattern, ask)

    def download(
        self,
        url: str,
        target: Path,
        size: int | None,
        check: Callable[[], None] = lambda: None,
        most: int | None = None,
    ) -> None:
        """Writes a remote file into a local one that exists.

        Args:
            url: of the file.
            target: where it is written.
            size: bytes that must come; None where the server does not say.
            check: looks at what came, and raises where it is not what it should be.
            most: bytes that are taken from a server that may send anything; None takes all.

        Raises:
            RemoteError: missing, cut off, or no byte for too long, on every try; or what the check says.
            DiskError: the local disk does not take it.
        """

        def once() -> None:
            system, path = self._system(url)
            # Over http in one request from front to end: also from servers that know neither ranges nor lengths.
            one = {"block_size": 0, "size": size or 1} if is_http(url) else {"block_size": CHUNK}
            written = copied(lambda: system.open(path, "rb", **one), target, self.stall, most)
            if size is not None and written != size:
                raise OSError(f"{written} of {size} bytes came")
            check()

        self._tried(url, once)

    def _system(self, url: str) -> tuple[Any, str]:
        """The fsspec file system behind a URL, and the path in it; one and the same for all calls of a thread.

        Raises:
            InputError: an unknown scheme, one whose client is not installed, or options that it does not know.
        """
        from fsspec.core import url_to_fs

        options = dict(self.storage_options)
        try:
            if is_http(url):
                options = _of_http(options, self.stall)
            found: tuple[Any, str] = url_to_fs(url, **options)
        except (ImportError, ValueError) as error:
            raise InputError(f"{shown(url)!r} cannot be opened: {error}") from error
        except TypeError as error:
            names = ", ".join(sorted(options))
            raise InputError(f"{shown(url)!r} does not take the storage_options {names}: {error}") from error
        return found

    def _tried(self, url: str, action: Callable[[], T], tries: int | None = None) -> T:
        tries = tries or self.tries
        for number in range(tries):
            try:
                return action()
            except (InputError, DiskError):
                raise
            except Exception as error:  # clients have exceptions of their own
                last = error
            reason = reason_of_remote(last, url)
            if isinstance(last, RemoteError) or is_lasting(last):
                break
            if number + 1 < tries:
                log.info("%s: %s; trying again", shown(url), reason)
                time.sleep(max(self.pause * 2**number, seconds_to_wait(last)))
        if isinstance(last, RemoteError):
            raise last
        lasting = is_lasting(last)
        often = "" if lasting or tries == 1 else f", tried {tries} times"
        raise RemoteError(f"{shown(url)}: {reason}{often}", lasting, status_of(last)) from last


def _fresh_info(system: Any, path: str) -> Mapping[str, Any]:
    """What the server says now, not what was listed before."""
    system.invalidate_cache(path)
    found: Mapping[str, Any] = system.info(path)
    if found.get("type") == "directory":  # in a store whatever other names begin with
        raise FileNotFoundError(path)
    return found


def _of_http(options: dict[str, Any], stall: float) -> dict[str, Any]:
    """Options of fsspec's HTTP file system: a limit for silence in the place of five minutes for all, and no compression."""
    from aiohttp import ClientTimeout

    # A little longer than we wait ourselves: these end what was left behind.
    timeout = ClientTimeout(total=None, sock_connect=stall + 5, sock_read=stall + 5)
    client = {"timeout": timeout, **options.get("client_kwargs", {})}
    return {**options, "client_kwargs": client, "headers": {"Accept-Encoding": "identity", **options.get("headers", {})}}
