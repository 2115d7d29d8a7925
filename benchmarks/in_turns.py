"""Contenders in processes of their own that take turns, step by step: CPU time of each step, and peak memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from memory import peak_bytes


@dataclass(frozen=True)
class Measured:
    """What a contender took.

    Args:
        seconds: CPU time of each round.
        peak: bytes by which its process grew at most.
    """

    seconds: list[float]
    peak: int

    @property
    def median(self) -> float:
        """Of the seconds."""
        return statistics.median(self.seconds)


def serve(build: Callable[[], Callable[[], object]]) -> None:
    """The contender's side: builds its step, takes one to warm up, then one for each line that arrives, and says how long."""

    def work() -> None:
        step = build()
        step()
        print("ready", flush=True)
        for _ in sys.stdin:
            start = time.process_time()
            step()
            print(time.process_time() - start, flush=True)

    print(peak_bytes(work), flush=True)


def in_turns(commands: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Measured]:
    """Starts the contenders' processes and lets them take turns.

    Args:
        commands: of each contender, that call `serve`.
        rounds: steps of each.

    Raises:
        RuntimeError: one ended early; what it said stands above.
    """
    processes = {
        name: subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for name, command in commands.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for name, process in processes.items():
        if _line(name, process) != "ready":
            raise RuntimeError(f"{name} did not get ready")
    for _ in range(rounds):
        for name, process in processes.items():
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[name].append(float(_line(name, process)))
    found = {}
    for name, process in processes.items():
        assert process.stdin is not None
        process.stdin.close()
        found[name] = Measured(seconds[name], int(_line(name, process)))
        process.wait()
    return found


def _line(name: str, process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"{name} ended early")
    return line.strip()
