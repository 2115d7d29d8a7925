"""Two writers at one place: one writes, the other is told in a line; a killed one stands in nobody's way."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from pictures import encoded, gradient
from small import small_module
from waiting import PATIENCE, exit_code, until

from lightning_clip import InputError
from lightning_clip.core.locks import only_writer
from lightning_clip.core.types import Pair
from lightning_clip.data.pack_shards import pack_shards
from lightning_clip.data.sources import PairSource
from lightning_clip.export.export import export


class Slow(PairSource):
    """Pairs of which the second waits for a word, in the process that was forked for it."""

    def __init__(self, word: Connection | None = None) -> None:
        self.word = word

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Pair:
        if index == 1 and self.word is not None:
            self.word.send("at work")
            self.word.recv()
            self.word = None
        return Pair(encoded(gradient(20 + index, 20), "PNG"), (f"text {index}",), str(index))


def _hold(place: Path, word: Connection) -> None:
    with only_writer(place, "--output"):
        word.send("at work")
        word.recv()


def _pack(pattern: str, workers: int, word: Connection) -> None:
    pack_shards(Slow(word), pattern, 2, workers=workers)


@contextmanager
def at_work(target: object, *arguments: object) -> Iterator[tuple[multiprocessing.Process, Connection]]:
    """A process that is in the middle of its work."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=target, args=(*arguments, there))  # type: ignore[arg-type]
    process.start()
    assert here.poll(PATIENCE) and here.recv() == "at work"
    try:
        yield process, here  # type: ignore[misc]
    finally:
        process.kill()
        process.join()


def test_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    with (
        at_work(_hold, tmp_path / "model") as (process, _),
        pytest.raises(InputError, match=rf"--output '.*model' is being written by process {process.pid} on .*: wait until it"),
        only_writer(tmp_path / "model", "--output"),
    ):
        pass


def test_other_places_are_free_and_nothing_is_left(tmp_path: Path) -> None:
    with only_writer(tmp_path / "a", "--output"), only_writer(tmp_path / "b", "--output"):
        pass
    with only_writer(tmp_path / "a", "--output"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_holds_nothing(tmp_path: Path) -> None:
    with at_work(_hold, tmp_path / "model") as (process, _):
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        with only_writer(tmp_path / "model", "--output"):
            pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workers", [1, 2])
def test_two_packs_of_one_pattern(tmp_path: Path, workers: int) -> None:
    """The first ends as if it had been alone, and one that comes later finds its shards."""
    pattern = str(tmp_path / "both" / "train-%06d.tar")
    with at_work(_pack, pattern, workers) as (process, word):
        with pytest.raises(InputError, match=rf"shard '.*train-000000.tar' is being written by process {process.pid}"):
            pack_shards(Slow(), pattern, 2)
        word.send("go on")
        assert exit_code(process) == 0
    assert pack_shards(Slow(), pattern, 2).kept == 2
    pack_shards(Slow(), str(tmp_path / "alone" / "train-%06d.tar"), 2)
    for shard in (tmp_path / "alone").iterdir():
        assert (tmp_path / "both" / shard.name).read_bytes() == shard.read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the workers in /proc")
def test_a_killed_pack_goes_on(tmp_path: Path) -> None:
    """Its workers end with it, and do not hold its lock until then."""
    pattern = str(tmp_path / "train-%06d.tar")
    with at_work(_pack, pattern, 2) as (process, _):
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        process.kill()
        process.join()
        assert pack_shards(Slow(), pattern, 2).pairs == 4
    assert len(workers) == 2
    until(lambda: not any(_lives(int(worker)) for worker in workers), "the workers of the run that was killed end too")


def _lives(process: int) -> bool:
    """Whether it is there and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    with (
        at_work(_hold, tmp_path / "model") as (process, _),
        pytest.raises(InputError, match=rf"--output '.*model' is being written by process {process.pid}"),
    ):
        export(small_module(), "safetensors", tmp_path / "model")
    assert not (tmp_path / "model").exists()
