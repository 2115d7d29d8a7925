"""A checkpoint in parts is of one step at any moment, whenever its ranks are killed or one of them cannot write."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import run_ranks
from strategies.ranks import fit
from waiting import Lifeline, until

from lightning_clip import InputError
from lightning_clip.checkpoints.parts import check_parts, may_be_replaced, write_parts
from lightning_clip.core import atomic
from lightning_clip.strategies.consolidate import consolidate
from lightning_clip.strategies.whole_folders import whole_folder


class Ranks:
    """What of a strategy is asked, over the process group."""

    def __init__(self) -> None:
        self.local_rank = dist.get_rank()
        self.is_global_zero = self.local_rank == 0

    def broadcast(self, value: Any) -> Any:
        held = [value]
        dist.broadcast_object_list(held, 0)
        return held[0]

    def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:
        count = torch.tensor(int(decision))
        dist.all_reduce(count)
        return int(count) == dist.get_world_size()


def write_on(rank: int, ranks: int, store: str, path: Path, first: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    rng = random.Random(rank)
    for step in range(first, first + 1000):
        with whole_folder(Ranks(), path, step) as place:
            time.sleep(rng.uniform(0, 0.005))  # ranks are never equally fast
            (place / f"rank{rank}").write_text(f"{step} " * 20_000)


def session(store: str, path: Path, first: int) -> None:
    os.setsid()
    context = multiprocessing.get_context("fork")
    for rank in range(2):
        context.Process(target=write_on, args=(rank, 2, store, path, first)).start()


def step_of(path: Path) -> int:
    try:
        return int(json.loads((path / "parts.json").read_text())["global_step"])
    except OSError:  # not yet there, or exchanged just now
        return 0


def killed_while_writing(folder: Path, kills: int, seed: int) -> None:
    rng, known, path = random.Random(seed), 0, folder / "run" / "last.ckpt"
    for number in range(kills):
        lifeline = Lifeline()
        process = multiprocessing.get_context("fork").Process(target=session, args=(f"{folder}/store{number}", path, known + 1))
        process.start()
        lifeline.let_go()
        until(lambda before=known: step_of(path) > before, "the ranks write together")
        time.sleep(rng.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        lifeline.wait()
        step = check_parts(path)
        assert {(path / f"rank{rank}").read_text() for rank in range(2)} == {f"{step} " * 20_000}
        assert step >= known
        known = step
    assert known >= kills  # the kills hit writers at work


def test_kills(tmp_path: Path) -> None:
    killed_while_writing(tmp_path, kills=5, seed=0)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    killed_while_writing(tmp_path, kills=100, seed=1)


def fails_on(rank: int, world_size: int, failing: int, path: Path) -> str:
    try:
        with whole_folder(Ranks(), path, 2) as place:
            if rank == failing:
                raise OSError(28, "No space left on device")
            (place / f"rank{rank}").write_text("2")
    except InputError as error:
        return str(error)
    return "written"


@pytest.mark.parametrize("failing", [0, 1])
def test_one_rank_has_no_room(failing: int, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    path.mkdir()
    (path / "rank0").write_text("1")
    write_parts(path, 1)
    said = run_ranks(fails_on, 2, failing, path)
    assert "the disk is full" in said[failing] and "What was there before is kept" in said[failing]
    assert "another rank says why" in said[1 - failing]
    assert check_parts(path) == 1 and not list(tmp_path.glob(".*partial*"))


def refuses(rank: int, world_size: int, path: Path) -> str:
    with pytest.raises(InputError) as refused, whole_folder(Ranks(), path, 2):
        pass
    return str(refused.value)


def test_a_folder_of_other_things_is_kept(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("mine")
    said = run_ranks(refuses, 2, tmp_path / "runs")
    assert "would replace a folder of other things: give another name" in said[0]
    assert (tmp_path / "runs" / "notes.txt").read_text() == "mine"
    assert not may_be_replaced(tmp_path / "runs") and may_be_replaced(tmp_path / "new")


def test_without_exchange_the_one_before_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a filesystem cannot exchange two names, a kill between two renames leaves both under names of their own."""
    monkeypatch.setattr(atomic, "_exchanged", lambda one, other: False)
    for number in (1, 2):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "part").write_text(str(number))
        atomic.take_place(tmp_path / "new", tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt" / "part").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("steps")
    for steps in (1, 2):
        fit(folder, strategy={"sharded_checkpoint": True}, max_steps=steps, save=folder / f"{steps}.ckpt")
    return [folder / "1.ckpt", folder / "2.ckpt"]


def test_parts_of_two_steps(tmp_path: Path) -> None:
    for step in (1, 2):
        (tmp_path / f"{step}").mkdir()
        for rank in range(2):
            (tmp_path / f"{step}" / f"rank{rank}").write_text(f"{step}" * 3_000_000)
        write_parts(tmp_path / f"{step}", step)
        assert check_parts(tmp_path / f"{step}") == step
    (tmp_path / "1" / "rank1").rename(tmp_path / "2" / "rank1")
    with pytest.raises(InputError, match="is of step 2, but its part rank1 is not the one that was written then"):
        check_parts(tmp_path / "2")
    with pytest.raises(InputError, match="is not complete: rank1 is missing. Copy the parts of every rank"):
        check_parts(tmp_path / "1")


@pytest.mark.slow
def test_a_mixture_is_refused(two_steps: list[Path]) -> None:
    first, second = two_steps
    assert (check_parts(first), check_parts(second)) == (1, 2)
    part = "__1_0.distcp"
    before = (second / part).read_bytes()
    (second / part).write_bytes((first / part).read_bytes())
    message = (
        f"2.ckpt' is of step 2, but its part {part} is not the one that was written then: copy the whole folder of one step"
    )
    try:
        with pytest.raises(InputError, match=message):
            consolidate(second)
        with pytest.raises(Exception, match="is not the one that was written then"):
            fit(second.parent, strategy={"sharded_checkpoint": True}, max_steps=3, resume=second)
    finally:
        (second / part).write_bytes(before)
    assert consolidate(second)["global_step"] == 2


@pytest.mark.slow
def test_a_list_that_is_missing_or_broken(two_steps: list[Path]) -> None:
    listed = two_steps[0] / "parts.json"
    before = listed.read_text()
    try:
        for content in ("{", "[]", json.dumps({"global_step": 1, "parts": {"../other": [1, ""]}})):
            listed.write_text(content)
            with pytest.raises(InputError, match="is not complete"):
                check_parts(two_steps[0])
        listed.unlink()
        with pytest.raises(InputError, match=r"has no list of its parts \(parts.json\), which is written last"):
            consolidate(two_steps[0])
    finally:
        listed.write_text(before)


@pytest.mark.slow
def test_a_file_takes_the_place_of_a_folder_and_back(two_steps: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    for sharded in (True, False, True):
        fit(tmp_path, strategy={"sharded_checkpoint": sharded}, max_steps=1, save=path)
        assert path.is_dir() == sharded
    assert not list(tmp_path.glob(".*partial*"))
