"""A checkpoint's file is whole at any moment: under kills and full disks, and wherever TMPDIR is."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO
from small import small_data, small_module, small_trainer
from waiting import until

from lightning_clip import InputError
from lightning_clip.checkpoints.writing import WholeCheckpointIO

VALUES = 300_000  # float32: 1.2 MB


def content(number: int) -> dict[str, Any]:
    return {"global_step": number, "state_dict": {"weight": torch.full((VALUES,), float(number))}}


def number_of(path: Path) -> int:
    """Of a checkpoint that is whole; a broken one does not load."""
    found = torch.load(path, weights_only=True)
    assert (found["state_dict"]["weight"] == found["global_step"]).all() and len(found["state_dict"]["weight"]) == VALUES
    return int(found["global_step"])


def mounted(folder: Path, size: str) -> None:
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no filesystem can be mounted here ({done.stderr.strip()})")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 2 MB, which is not that of TMPDIR: one checkpoint has room on it, two have not."""
    folder = tmp_path / "disk"
    mounted(folder, "2m")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A filesystem with room that is not that of TMPDIR, as on most clusters."""
    folder = tmp_path / "elsewhere"
    mounted(folder, "64m")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def write_on(path: Path, first: int) -> None:
    for number in range(first, first + 1000):
        WholeCheckpointIO().save_checkpoint(content(number), path)


def killed_while_writing(path: Path, kills: int, seed: int) -> None:
    rng, known = random.Random(seed), 0
    for _ in range(kills):
        process = multiprocessing.get_context("fork").Process(target=write_on, args=(path, known + 1))
        process.start()
        if not known:
            until(path.exists, "a first checkpoint")
        time.sleep(rng.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join()
        number = number_of(path)
        assert number >= known  # this one, or the one before
        known = number
        assert len(list(path.parent.iterdir())) <= 2  # what the killed one left is removed by the next
    WholeCheckpointIO().save_checkpoint(content(0), path)
    assert list(path.parent.iterdir()) == [path]


def test_kills(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    killed_while_writing(tmp_path / "run" / "last.ckpt", kills=10, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_kills_with_tmpdir_elsewhere(seed: int, elsewhere: Path) -> None:
    killed_while_writing(elsewhere / "last.ckpt", kills=50, seed=seed)


def test_lightnings_own_loses_the_file_there(small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What this is for; once it holds no more, `WholeCheckpointIO` is not needed."""
    path = small_disk / "last.ckpt"
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    TorchCheckpointIO().save_checkpoint(content(1), path)
    (small_disk / "other").write_bytes(b"1" * 400_000)
    with pytest.raises(Exception, match="."):
        TorchCheckpointIO().save_checkpoint({**content(2), "more": torch.zeros(200_000)}, path)
    with pytest.raises((RuntimeError, EOFError)):
        number_of(path)


def test_full_disk_keeps_the_one_before(small_disk: Path) -> None:
    path = small_disk / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(content(1), path)
    message = r"last.ckpt' cannot be written: the disk is full \(.* GB free\). What was there before is kept: make room"
    for number in range(2, 6):
        with pytest.raises(InputError, match=message):
            WholeCheckpointIO().save_checkpoint(content(number), path)
        assert number_of(path) == 1 and list(small_disk.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 100, 70_000, 600_000, 1_199_000])
def test_any_write_may_be_the_one_that_fails(size: int, tmp_path: Path) -> None:
    """A limit on the size of files does what a full disk does, without rights to mount."""
    path = tmp_path / "last.ckpt"
    WholeCheckpointIO().save_checkpoint(content(1), path)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        with pytest.raises(InputError, match=r"the disk is full .* What was there before is kept"):
            WholeCheckpointIO().save_checkpoint(content(2), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert number_of(path) == 1 and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("plugin", [None, TorchCheckpointIO, AsyncCheckpointIO])
def test_every_run_writes_so(plugin: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    save = WholeCheckpointIO.save_checkpoint

    def noted(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        written.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(WholeCheckpointIO, "save_checkpoint", noted)
    plugins = [plugin()] if plugin is not None else None
    trainer = small_trainer(tmp_path, max_steps=2, plugins=plugins, enable_checkpointing=True)
    trainer.fit(small_module(), small_data())
    trainer.save_checkpoint(tmp_path / "by_hand.ckpt")
    trainer.strategy.checkpoint_io.teardown()
    assert len(written) == 2 and written[1] == "by_hand.ckpt"
    assert torch.load(tmp_path / "by_hand.ckpt", weights_only=True)["global_step"] == 2


def test_a_plugin_of_ones_own_is_kept(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        pass

    trainer = small_trainer(tmp_path, max_steps=2, plugins=[Own()])
    trainer.fit(small_module(), small_data())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert type(trainer.strategy.checkpoint_io) is Own
