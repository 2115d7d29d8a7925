"""Commands in a process of their own that imports nothing again: a fork of this one, with its exit code and what it prints.

A fresh Python takes 5 to 15 seconds to import torch and Lightning; a fork takes milliseconds. What only a fresh one shows (lazy
imports, signals, `python -m`) keeps a test with `subprocess`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from waiting import PATIENCE

from lightning_clip.cli import main

__all__ = ["Done", "forked", "forked_command"]

Done = subprocess.CompletedProcess[str]


def forked_command(*arguments: str, folder: Path, timeout: float = PATIENCE, **environment: str) -> Done:
    """`lightning-clip` with these arguments, started in a folder; the environment adds to that of the tests."""
    return forked(lambda: main(arguments), folder=folder, timeout=timeout, COLUMNS="120", **environment)


def forked(function: Callable[[], Any], *, folder: Path, timeout: float = PATIENCE, **environment: str) -> Done:
    """Runs a function in a fork of this process.

    Args:
        function: what it returns, or what it gives to `sys.exit`, is the exit code; an exception makes it 1.
        folder: the working directory.
        timeout: seconds after which the process is killed and the call fails.
        environment: variables that the process sees beside those of this one.

    Raises:
        subprocess.TimeoutExpired: the process took longer.
    """
    with tempfile.TemporaryDirectory(prefix="forked") as place:
        printed = Path(place) / "stdout", Path(place) / "stderr"
        process = multiprocessing.get_context("fork").Process(target=_child, args=(function, folder, environment, *printed))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired("forked", timeout, printed[0].read_text(), printed[1].read_text())
        return Done("forked", process.exitcode or 0, printed[0].read_text(), printed[1].read_text())


def _child(function: Callable[[], Any], folder: Path, environment: dict[str, str], stdout: Path, stderr: Path) -> None:
    """Its streams are files, as far down as the descriptors: pytest's own are those of the process that it came from."""
    for descriptor, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    before = {sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__}
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr
    for name in (None, *logging.root.manager.loggerDict):
        for handler in logging.getLogger(name).handlers:
            if isinstance(handler, logging.StreamHandler) and handler.stream in before:
                handler.setStream(sys.stderr)
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(function())
