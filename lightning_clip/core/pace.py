"""`Pace`: now and then a line of how far some work is, for logs and for whatever else is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Pace", "duration"]


def duration(seconds: float) -> str:
    """A time as it is said.

    Examples:
        >>> duration(8), duration(130), duration(9000)
        ('8 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class Pace:
    """Says how far some work is, at most every so many seconds, and nothing of what is done before the first are over.

    Args:
        what: is done, such as "reading captions".
        total: units of it, None where that is not known.
        every: seconds between two lines.
        clock: for tests.

    Examples:
        >>> seconds = iter([0.0, 5.0, 40.0])
        >>> pace = Pace("packing", 2000, every=30, clock=lambda: next(seconds))
        >>> pace.line(100), pace.line(1000)
        ('', 'packing: 1,000 of 2,000, 44 s left')
    """

    def __init__(
        self, what: str, total: int | None, *, every: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.what, self.total, self.every, self._clock = what, total, every, clock
        self._began = self._said = clock()
        self._first: int | None = None

    def line(self, done: int, said: str = "") -> str:
        """The line that is due, or "".

        Args:
            done: units so far.
            said: more of them, such as "loss 1.93".
        """
        now = self._clock()
        if self._first is None:
            self._first = done
        if now - self._said < self.every:
            return ""
        self._said = now
        parts = [f"{done:,} of {self.total:,}" if self.total else f"{done:,}", *([said] if said else [])]
        fresh = done - self._first  # what a checkpoint brought took no time
        if self.total and fresh > 0:
            parts.append(f"{duration((self.total - done) * (now - self._began) / fresh)} left")
        return f"{self.what}: {', '.join(parts)}"
