"""Work on ranges of a source in several processes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lightning_clip.core.pace import Pace

__all__ = ["over_ranges"]

T = TypeVar("T")
_work: Callable[..., Any] | None = None


def over_ranges(
    work: Callable[[int, int, int], T],
    length: int,
    size: int,
    workers: int,
    description: str,
    chosen: Sequence[int] | None = None,
) -> Iterator[tuple[int, T]]:
    """Calls `work(number, start, stop)` for each range of `size`, with a progress bar in samples.

    Args:
        work: handed to the processes by forking; what it returns must pickle.
        length: of all ranges together.
        size: of a range; the last may be shorter.
        workers: processes; 1 works in this one.
        description: of the bar.
        chosen: numbers of the ranges to work on, None for all.

    Yields:
        Number and result, in order, each as soon as those before it are done.
    """
    numbers = range(-(-length // size)) if chosen is None else chosen
    ranges = [(number, number * size, min(length, (number + 1) * size)) for number in numbers]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    total, done = sum(stop - start for _, start, stop in ranges), 0
    pace = Pace(description, total)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress.advance(task, count)
        if not progress.console.is_terminal and (line := pace.line(done)):
            print(line, file=sys.stderr, flush=True)

    with Progress(*columns, disable=not ranges, transient=True) as progress:
        task = progress.add_task(description, total=total)
        if workers == 1 or len(ranges) < 2:
            for number, start, stop in ranges:
                yield number, work(number, start, stop)
                advance(stop - start)
            return
        context = get_context("fork")  # the source, with all it has read, is simply there
        pool = ProcessPoolExecutor(min(workers, len(ranges)), context, initializer=_begin, initargs=(work, os.getpid()))
        try:
            futures = [pool.submit(_do, *entry) for entry in ranges]
            for (number, start, stop), future in zip(ranges, futures, strict=True):
                yield number, future.result()
                advance(stop - start)
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(work: Callable[..., Any], parent: int) -> None:
    global _work
    _work = work
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Ends a worker whose parent was killed: it would wait for work for ever, and keep its memory."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _do(*arguments: int) -> Any:
    assert _work is not None
    return _work(*arguments)
