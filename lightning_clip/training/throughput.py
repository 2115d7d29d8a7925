"""Samples per second between two readings."""

from __future__ import annotations

import time

__all__ = ["Throughput"]


class Throughput:
    """Counts samples and the time they took; a restart leaves out what is no training (validation, start-up).

    Examples:
        >>> meter = Throughput()
        >>> meter.read()
        0.0
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets what was counted."""
        self._samples, self._since = 0, time.perf_counter()

    def add(self, samples: int) -> None:
        """Counts a batch."""
        self._samples += samples

    def read(self) -> float:
        """Samples per second since the last reading or restart, 0.0 if there were none; then counts anew."""
        speed = self._samples / max(1e-9, time.perf_counter() - self._since)
        self.restart()
        return speed
