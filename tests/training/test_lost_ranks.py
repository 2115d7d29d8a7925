"""Ranks that fail, die or fall silent: each of the others ends, soon, with a line that names the one."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from small import small_data, small_module, small_trainer
from waiting import PATIENCE, free_port

from lightning_clip import InputError
from lightning_clip.training.lost_ranks import LostRanks, is_lost_rank


class Fault(pl.Callback):
    """Something that happens on one rank in its second batch."""

    def __init__(self, rank: int, happens: Callable[[], None]) -> None:
        self.rank, self.happens = rank, happens

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.global_rank == self.rank:
            self.happens()


def _fails() -> None:
    raise OSError("cannot read shard 7")


def _dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hangs() -> None:
    time.sleep(600)


def _fit(rank: int, port: int, folder: Path, fault: Fault, seconds: float, told: Any) -> None:
    torch.cuda._is_in_bad_fork = lambda: False  # type: ignore[attr-defined]  # other tests may have asked for devices
    torch.set_num_threads(1)
    values = {"LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({key: str(value) for key, value in values.items()})
    module = small_module(execution={"rank_timeout": seconds})
    try:
        small_trainer(folder, strategy="ddp", devices=2, max_steps=4, callbacks=[fault]).fit(
            module, small_data(size=32, batch=8)
        )
    except BaseException as error:
        told.put((rank, type(error).__name__, str(error), is_lost_rank(error)))
    told.close()
    told.join_thread()
    os._exit(0)


def end(folder: Path, rank: int, happens: Callable[[], None], seconds: float = PATIENCE, tells: int = 2) -> dict[int, Any]:
    """What ranks say at their end when something happens on one of them."""
    port = free_port()
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    fault = Fault(rank, happens)
    processes = [context.Process(target=_fit, args=(own, port, folder, fault, seconds, told)) for own in range(2)]
    for process in processes:
        process.start()
    try:
        return {own: found for own, *found in (told.get(timeout=PATIENCE) for _ in range(tells))}
    finally:
        for process in processes:
            process.kill()
            process.join()


def test_the_others_tell_the_error_of_the_first(tmp_path: Path) -> None:
    found = end(tmp_path, 1, _fails)
    assert found[1] == ["OSError", "cannot read shard 7", False]
    assert found[0][1:] == ["rank 0 ends because another has failed: rank 1: OSError: cannot read shard 7", True]


@pytest.mark.slow
def test_the_rank_that_keeps_the_store(tmp_path: Path) -> None:
    found = end(tmp_path, 0, _fails)
    assert found[0] == ["OSError", "cannot read shard 7", False]
    assert found[1][1:] == [
        "rank 1 has lost rank 0, which ended first: its own last line says why; without one it was killed",
        True,
    ]


@pytest.mark.slow
def test_a_rank_that_is_killed(tmp_path: Path) -> None:
    found = end(tmp_path, 1, _dies, tells=1)
    assert re.fullmatch(r"rank 0 has lost rank 1, which ended first: its own last line says why; .*", found[0][1])


@pytest.mark.slow
def test_a_rank_that_falls_silent_is_named(tmp_path: Path) -> None:
    found = end(tmp_path, 1, _hangs, seconds=20.0, tells=1)
    assert re.match(r"rank 0 has waited 20 s for rank 1: look there .* \(training.execution.rank_timeout, in", found[0][1])


def test_a_time_given_to_the_strategy_is_kept() -> None:
    given, default = DDPStrategy(timeout=timedelta(seconds=7)), DDPStrategy()
    for strategy in (given, default):
        LostRanks(600).limit(strategy)
    assert given._timeout == timedelta(seconds=7) and default._timeout == timedelta(seconds=600)


def test_no_time_at_all() -> None:
    with pytest.raises(InputError, match=r"execution.rank_timeout 0 must be a number of seconds above 0"):
        small_module(execution={"rank_timeout": 0})


def test_torchrun_without_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that a Trainer of one would run side by side."""
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"torchrun started 2 processes, but the Trainer is set to 1, .*: set devices=2"):
        small_trainer(tmp_path).fit(small_module(), small_data())
