"""Waiting for others: as long as a busy machine needs, and not for ever for what hangs."""

from __future__ import annotations

import multiprocessing
import random
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess

__all__ = ["PATIENCE", "Lifeline", "exit_code", "free_port", "until"]

PATIENCE = 300.0  # seconds, less than pytest allows a test: whoever waits in vain can still say for what


def until(true: Callable[[], object], what: str) -> None:
    """Waits until something is true.

    Args:
        true: asked every 10 ms. Names in a folder that begin with a dot are files which somebody is still writing.
        what: is waited for, in the message.
    """
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"in vain for {PATIENCE:g} s: {what}"
        time.sleep(0.01)


def exit_code(process: BaseProcess, seconds: float = PATIENCE) -> int | None:
    """The exit code of a process once it has ended; one that does not is killed."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"process {process.pid} did not end within {seconds:g} s")
    return process.exitcode


class Lifeline:
    """A pipe that a process and all that it forks hold open: its end tells that none of them is left.

    Made before the process is forked. `killpg` and `join` do not wait for the children of what was killed, which may still be
    writing.
    """

    def __init__(self) -> None:
        self._here, self._there = multiprocessing.Pipe(duplex=False)

    def let_go(self) -> None:
        """After the fork: from now on only the others hold it."""
        self._there.close()

    def wait(self) -> None:
        """Until none is left."""
        assert self._here.poll(PATIENCE), f"processes are still there {PATIENCE:g} s after they were to end"
        self._here.close()


def free_port() -> int:
    """A port of this machine that nobody listens on.

    From below those that the system gives away itself (32768 and up): of these, a connection of another test may get the one
    that was free a moment ago.
    """
    while True:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
