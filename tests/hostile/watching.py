"""One hostile case watched: what it runs, writes, asks of the network, how long it takes and how much memory."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import resource
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_clip.cli import main

SECONDS = 20
GIBIBYTE = 1 << 20  # in KiB, as the system counts
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "pickle.find_class")
_CHANGES = (
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "shutil.rmtree",
)
_NETWORK = ("socket.connect", "socket.getaddrinfo")
_found: list[tuple[str, str]] = []
_state: dict[str, str | None] = {"folder": None}


class Late(BaseException):
    """No Exception, which a library might take for a mistake in a file."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _state["folder"]
    if folder is None:
        return
    if event in _RUNS or event in _NETWORK:
        _found.append((event, repr(arguments)[:200]))
    elif event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
        if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _note(event, arguments[0], folder)
    elif event in _CHANGES:
        for path in [entry for entry in arguments[:2] if isinstance(entry, str | bytes | os.PathLike)]:
            _note(event, path, folder)


def _note(event: str, path: Any, folder: str) -> None:
    if not str(Path(os.fsdecode(path)).resolve()).startswith((folder, "/dev/")):
        _found.append((event, os.fsdecode(path)))


def install() -> None:
    """Adds the hook, which stays until the process ends and sleeps outside of `watched`."""
    if not _state.get("installed"):
        _state["installed"] = "yes"
        sys.addaudithook(_hook)


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Fails where the block runs code, writes outside of `folder`, connects, takes 20 s, or 1 GiB more than there was.

    A larger piece of memory cannot be had at all: whoever asks for it in vain says so, see `ran`.
    """
    clock = _Clock()
    before = signal.signal(signal.SIGALRM, clock.ring)
    space = resource.getrlimit(resource.RLIMIT_AS)
    _found.clear()
    at_start = _peak(reset=True)
    resource.setrlimit(resource.RLIMIT_AS, ((_status("VmSize") + 3 * GIBIBYTE) * 1024, space[1]))
    _state["folder"] = str(folder.resolve())
    signal.alarm(SECONDS)
    try:
        yield
    finally:  # also where a file is refused
        signal.alarm(0)
        _state["folder"] = None
        resource.setrlimit(resource.RLIMIT_AS, space)
        signal.signal(signal.SIGALRM, before)
        taken = _peak() - at_start
        assert not _found, _found
        assert clock.taken() < SECONDS, "too slow"
        assert taken < GIBIBYTE, f"{taken / GIBIBYTE:.1f} GiB"


class _Clock:
    """Seconds since it was made in which this process ran or slept: not those in which others had the processors."""

    def __init__(self) -> None:
        self.start = time.monotonic() - _waited()

    def taken(self) -> float:
        return time.monotonic() - _waited() - self.start

    def ring(self, *_: object) -> None:
        if self.taken() >= SECONDS:
            raise Late(f"not done after {SECONDS} s")
        signal.alarm(int(SECONDS - self.taken()) + 1)


def _waited() -> float:
    """Seconds that the main thread was ready to run and had no processor."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError):
        return 0.0


def _status(key: str) -> int:
    """A line of /proc/self/status, in KiB."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


def _peak(*, reset: bool = False) -> int:
    """The most memory that was resident since the last reset, in KiB."""
    if reset:
        with contextlib.suppress(OSError):  # only the system's own counter since the start is there, which is stricter
            Path("/proc/self/clear_refs").write_text("5")
    return _status("VmHWM")


def ran(*arguments: str) -> tuple[int, str]:
    """Runs a command in this process, which must end well or in one line; returns its exit code and all that it said."""
    said = io.StringIO()
    handler = logging.StreamHandler(said)
    logging.getLogger().addHandler(handler)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), warnings.catch_warnings():
            code = _code(lambda: main(arguments))
    finally:
        logging.getLogger().removeHandler(handler)
    text = said.getvalue()
    lines = [line for line in text.splitlines() if line.startswith("lightning-clip: error:")]
    assert code in (0, 1, 2), (code, text[-3000:])
    assert "Traceback (most recent call last)" not in text, text[-3000:]
    assert "memory is full" not in text, text[-1000:]
    assert len(lines) == (code == 2) and all(len(line) < 3000 for line in lines), text[-3000:]
    return code, text


def _code(run: Callable[[], int]) -> int:
    try:
        return run()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1
