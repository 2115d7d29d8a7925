"""Moments inside long evaluations at which a run may be ended: between two batches, when nothing is half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["pause", "pausing"]

_watching: list[Callable[[], None]] = []


def pause() -> None:
    """Called between two batches of a loop that may be long; whoever watches may end the run here."""
    for watch in _watching:
        watch()


@contextmanager
def pausing(watch: Callable[[], None]) -> Iterator[None]:
    """Has a function called at each pause while the block lasts.

    Args:
        watch: may raise, SystemExit to end the run.

    Examples:
        >>> with pausing(lambda: print("between two batches")):
        ...     pause()
        between two batches
        >>> pause()
    """
    _watching.append(watch)
    try:
        yield
    finally:
        _watching.remove(watch)
