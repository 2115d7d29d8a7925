"""Files behind URLs, read with retries and without ever waiting for ever."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lightning_clip.core.errors import InputError

__all__ = ["DiskError", "Remote", "RemoteError", "file_system"]

log = logging.getLogger(__name__)
T = TypeVar("T")
_CHUNK = 4 << 20


class RemoteError(OSError):
    """A remote file that could not be fetched, after all tries; its samples are counted as lost."""


class DiskError(OSError):
    """The local disk refused a write: no other try would help."""


@dataclass(frozen=True)
class Remote:
    """Settings of every transfer.

    Args:
        tries: how often a transfer is begun, at least 1; between two tries it waits 1, 2, 4 ... `pause` seconds.
        stall: seconds without a byte after which a transfer counts as failed.
        pause: seconds before the second try.
    """

    tries: int = 4
    stall: float = 60.0
    pause: float = 1.0

    def size(self, url: str) -> int:
        """Bytes of a remote file.

        Raises:
            RemoteError: missing, or no answer.
        """

        def ask() -> int:
            system, path = file_system(url)
            return int(system.size(path))

        return self._tried(url, lambda: _within(self.stall, ask))

    def read(self, url: str) -> bytes | None:
        """A small file, or None if there is none."""

        def ask() -> bytes | None:
            system, path = file_system(url)
            return bytes(system.cat_file(path)) if system.exists(path) else None

        return self._tried(url, lambda: _within(self.stall, ask))

    def download(self, url: str, target: Path, size: int) -> None:
        """Writes a remote file of a known size into a local one that exists.

        Raises:
            RemoteError: missing, cut off, or no byte for too long, on every try.
            DiskError: the local disk does not take it.
        """
        self._tried(url, lambda: self._once(url, target, size))

    def _once(self, url: str, target: Path, size: int) -> None:
        """One try: a thread reads, this one writes, so that a source which falls silent cannot hold up the run."""
        chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=4)
        stopped = threading.Event()

        def read() -> None:
            try:
                system, path = file_system(url)
                with system.open(path, "rb", block_size=_CHUNK) as stream:
                    while not stopped.is_set() and (chunk := stream.read(_CHUNK)):
                        chunks.put(chunk)
                chunks.put(None)
            except BaseException as error:  # handed to the waiting thread
                chunks.put(error)

        threading.Thread(target=read, daemon=True, name=f"download {url}").start()
        written = 0
        try:
            with target.open("r+b") as stream:
                while (chunk := _next(chunks, self.stall)) is not None:
                    if isinstance(chunk, BaseException):
                        raise RemoteError(f"{type(chunk).__name__}: {chunk}") from chunk
                    _write(stream, chunk)
                    written += len(chunk)
        finally:
            stopped.set()
            while not chunks.empty():  # lets a reader that waits to put its chunk see the end
                chunks.get_nowait()
        if written != size:
            raise RemoteError(f"{written} of {size} bytes came")

    def _tried(self, url: str, action: Callable[[], T]) -> T:
        for number in range(self.tries):
            try:
                return action()
            except (InputError, DiskError):
                raise
            except Exception as error:  # clients have exceptions of their own
                last = error
            if isinstance(last, FileNotFoundError) or isinstance(last.__cause__, FileNotFoundError):
                raise RemoteError("remote shard missing") from last  # another try would not help
            if number + 1 < self.tries:
                log.info("%s: %s; trying again", url, last)
                time.sleep(self.pause * 2**number)
        raise RemoteError(f"remote shard cannot be read ({last})") from last


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system behind a URL, and the path in it.

    Raises:
        InputError: an unknown scheme, or one whose client is not installed.
    """
    from fsspec.core import url_to_fs

    try:
        found: tuple[Any, str] = url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url!r} cannot be opened: {error}") from error
    return found


def _write(stream: BinaryIO, chunk: bytes) -> None:
    try:
        stream.write(chunk)
        stream.flush()
    except OSError as error:
        raise DiskError(error.errno, os.strerror(error.errno or 0)) from error


def _next(chunks: queue.Queue[bytes | BaseException | None], seconds: float) -> bytes | BaseException | None:
    try:
        return chunks.get(timeout=seconds)
    except queue.Empty as error:
        raise RemoteError(f"no byte came for {seconds:g} s") from error


def _within(seconds: float, action: Callable[[], T]) -> T:
    """Runs something that may never return; its thread is then left behind."""
    found: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=1)

    def run() -> None:
        try:
            found.put((True, action()))
        except BaseException as error:  # handed to the waiting thread
            found.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, value = found.get(timeout=seconds)
    except queue.Empty as error:
        raise RemoteError(f"no answer for {seconds:g} s") from error
    if not good:
        raise value
    return value  # type: ignore[no-any-return]
