"""Reading that may never come back, done in threads that can be left behind."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from lightning_clip.data.shards.remote_errors import DiskError

__all__ = ["CHUNK", "copied", "within"]

T = TypeVar("T")
CHUNK = 4 << 20


def within(seconds: float, action: Callable[[], T]) -> T:
    """Runs something that may never return; its thread is then left behind.

    Raises:
        TimeoutError: it takes longer.
    """
    found: queue.Queue[tuple[bool, Any]] = queue.Queue(maxsize=1)

    def run() -> None:
        try:
            found.put((True, action()))
        except BaseException as error:  # handed to the waiting thread
            found.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, value = found.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer for {seconds:g} s") from None
    if not good:
        raise value
    return value  # type: ignore[no-any-return]


def copied(source: Callable[[], Any], target: Path, seconds: float, most: int | None = None) -> int:
    """Writes a stream into a file: a thread reads, this one writes, so that one which falls silent cannot hold up the run.

    Args:
        source: opens the stream.
        target: a file that exists; what it holds is overwritten from its beginning.
        seconds: without a byte after which the stream counts as broken.
        most: bytes that are taken; None takes all.

    Returns:
        The bytes that came.

    Raises:
        TimeoutError: no byte for too long.
        ValueError: more bytes come than are taken.
        DiskError: the local disk does not take it.
    """
    chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=4)
    stopped = threading.Event()

    def read() -> None:
        try:
            with source() as stream:
                while not stopped.is_set() and (chunk := stream.read(CHUNK)):
                    chunks.put(chunk)
            chunks.put(None)
        except BaseException as error:  # handed to the waiting thread
            chunks.put(error)

    threading.Thread(target=read, daemon=True, name="download").start()
    written = 0
    try:
        with target.open("r+b") as stream:
            while (chunk := _next(chunks, seconds)) is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                if most is not None and written + len(chunk) > most:
                    raise ValueError(f"more than {most:,} bytes")
                _write(stream, chunk)
                written += len(chunk)
            stream.truncate()  # it may have been longer in a try before
    finally:
        stopped.set()
        while not chunks.empty():  # lets a reader that waits to put its chunk see the end
            chunks.get_nowait()
    return written


def _next(chunks: queue.Queue[bytes | BaseException | None], seconds: float) -> bytes | BaseException | None:
    try:
        return chunks.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no byte came for {seconds:g} s") from None


def _write(stream: BinaryIO, chunk: bytes) -> None:
    try:
        stream.write(chunk)
        stream.flush()
    except OSError as error:
        raise DiskError(error.errno, os.strerror(error.errno or 0)) from error
