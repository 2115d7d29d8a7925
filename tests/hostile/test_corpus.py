"""Mutated files by seed under an audit hook: each is read, or refused in one line; nothing runs, nothing is written outside.

`LIGHTNING_CLIP_HOSTILE_CASES` sets how many of each kind (default 40).
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile.test_damaged_data import MAKERS, mutated, read_all
from small import save_checkpoint

from lightning_clip import ClipModule, InputError
from lightning_clip.core.trust import restricted
from lightning_clip.core.yaml_files import read_mapping
from lightning_clip.curation.settings import CurationSettings
from lightning_clip.evaluation.suite import Suite

CASES = int(os.environ.get("LIGHTNING_CLIP_HOSTILE_CASES", "40"))
SECONDS = 20
_RUNS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pty.spawn", "ctypes.dlopen")
_watched: list[tuple[str, str]] = []
_state: dict[str, Any] = {"folder": None}


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _state["folder"]
    if folder is None:
        return
    if event in _RUNS:
        _watched.append((event, repr(arguments)[:200]))
    elif event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
        path = os.fsdecode(arguments[0])
        writes = arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and not str(Path(path).resolve()).startswith((folder, "/dev/")):
            _watched.append((event, path))


@pytest.fixture(scope="module", autouse=True)
def hook() -> None:
    sys.addaudithook(_hook)  # stays until the process ends, and is asleep outside of `watched`


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[None]:
    def late(*_: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    _state["folder"] = None


def _checkpoint(path: Path) -> bytes:
    save_checkpoint(path)
    return path.read_bytes()


SUITE = b"""sets:
  a: {name: synthetic, size: 8, class_names: [a, b], templates: ["a {}"], protocols: [zero_shot]}
output: out
batch_size: 4
num_workers: 0
trainer: {accelerator: cpu}
"""
CURATE = b"""data: {name: synthetic, size: 8}
output: out
filters: [{name: size, least: 4}, caption_length]
duplicates: {exact: true, perceptual: 12, against: [test]}
balance: {most: 20, entries: [dog, cat]}
best_scores: 0.5
pairs_per_shard: 10
"""
READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], Any]]] = {
    **{name: (maker, read_all) for name, maker in MAKERS.items()},
    "suite.yaml": (lambda _: SUITE, lambda path: Suite.read(str(path))),
    "curate.yaml": (lambda _: CURATE, lambda path: CurationSettings.parse(read_mapping(path, "config"))),
    "a.ckpt": (_checkpoint, ClipModule.load_from_checkpoint),
}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", READERS)
def test_mutated(name: str, tmp_path: Path, watched: None) -> None:
    maker, reader = READERS[name]
    (tmp_path / "whole").mkdir()
    whole = maker(tmp_path / "whole" / name)
    for seed in range(CASES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        maker(folder / name)  # with the files beside it
        (folder / name).write_bytes(mutated(whole, random.Random(f"{name} {seed}")))
        _watched.clear()
        _state["folder"] = str(tmp_path)
        signal.alarm(SECONDS)
        try:
            with restricted("evaluate"):
                reader(folder / name)
        except InputError as error:
            said = str(error)
            assert len(said) < 3000, (seed, said)
        finally:
            signal.alarm(0)
            _state["folder"] = None
        assert not _watched, (seed, _watched)
