"""Real gloo ranks for tests: a function and a world size arrive, what each rank returned leaves."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from waiting import PATIENCE

__all__ = ["RankError", "run_ranks"]

_GRACE = 2.0  # seconds between the end of a silent rank and the verdict that its answer is not on its way


class RankError(AssertionError):
    """A rank raised, died or did not finish; the message holds its number and traceback."""


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = PATIENCE) -> list[Any]:
    """Runs `function(rank, world_size, *args)` in `world_size` forked processes that share a gloo group.

    Processes are forked, so that `function` may be a closure and starts within milliseconds, and run on one thread
    each. What they return must pickle; tensors travel by value. Where torch sees an accelerator, a backward pass in the
    parent starts autograd's device threads, which do not survive a fork: hide it with CUDA_VISIBLE_DEVICES="".

    Args:
        function: called as `function(rank, world_size, *args)`.
        world_size: number of processes.
        args: handed on.
        timeout: seconds after which all processes are killed and the call fails.

    Returns:
        What each rank returned, in rank order.

    Raises:
        RankError: a rank raised, died without an answer, or some had not answered in time. No process outlives the
            call.
    """
    context = multiprocessing.get_context("fork")
    deadline = time.monotonic() + timeout
    answers: Any = context.Queue()
    with tempfile.TemporaryDirectory(prefix="ranks") as folder:
        store = Path(folder) / "store"
        processes = [
            context.Process(target=_rank, args=(answers, store, timeout, function, rank, world_size, args), daemon=True)
            for rank in range(world_size)
        ]
        try:
            for process in processes:
                process.start()
            return _collect(answers, processes, deadline, timeout)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
            answers.close()


def _rank(
    answers: Any, store: Path, timeout: float, function: Callable[..., Any], rank: int, world_size: int, args: Any
) -> None:
    torch.set_num_threads(1)
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=timeout),
        )
        result = function(rank, world_size, *args)
        # Pickled here: the queue would share a tensor's memory, which ends with this process.
        answers.put((rank, True, pickle.dumps(result)))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        # The first to fail must be heard before its peers notice that it is gone.
        answers.put((rank, False, traceback.format_exc()))
        answers.close()
        answers.join_thread()


def _collect(answers: Any, processes: list[Any], deadline: float, timeout: float) -> list[Any]:
    results: dict[int, Any] = {}
    dead_since: float | None = None
    while len(results) < len(processes):
        try:
            rank, succeeded, content = answers.get(timeout=0.05)
        except queue.Empty:
            missing = [rank for rank in range(len(processes)) if rank not in results]
            dead = [rank for rank in missing if not processes[rank].is_alive()]
            now = time.monotonic()
            dead_since = (dead_since or now) if dead else None
            if dead_since is not None and now > dead_since + _GRACE:
                codes = {rank: processes[rank].exitcode for rank in dead}
                raise RankError(f"ranks died without an answer (rank: exit code): {codes}") from None
            if now > deadline:
                raise RankError(f"ranks {missing} had not answered after {timeout} s and were killed") from None
            continue
        if not succeeded:
            raise RankError(f"rank {rank} of {len(processes)} raised\n{content}")
        results[rank] = pickle.loads(content)
    return [results[rank] for rank in range(len(processes))]
