"""Files that are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE

from lightning_clip import InputError
from lightning_clip.core.atomic import beside


def _fail(target: Path, error: BaseException, folder: bool = False) -> None:
    with beside(target, folder=folder) as place:
        (place / "part" if folder else place).write_text("half")
        raise error


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "table.csv"
    with beside(target) as place:
        place.write_text("1")
    with beside(target) as place:
        place.write_text("2")
        assert target.read_text() == "1" and place.suffix == ".csv"
    assert target.read_text() == "2" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("error", [RuntimeError("of the writer"), KeyboardInterrupt(), InputError("said already")])
def test_a_failure_leaves_nothing_and_is_not_changed(tmp_path: Path, folder: bool, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        _fail(tmp_path / "out.pt", error, folder)
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_a_folder(tmp_path: Path) -> None:
    with beside(tmp_path / "model", folder=True) as place:
        (place / "weights").write_text("1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "weights").read_text() == "1"


# torch and safetensors put the system's word into errors of their own.
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, ""),
    RuntimeError("No space left on device"),
    RuntimeError("Error while serializing: I/O error: File too large (os error 27)"),
]


@pytest.mark.parametrize("error", FULL)
def test_no_room(tmp_path: Path, error: Exception) -> None:
    message = r"'.*out.pt' cannot be written: the disk is full \(.* GB free\). Nothing was left there: make room"
    with pytest.raises(InputError, match=message):
        _fail(tmp_path / "out.pt", error)
    assert not list(tmp_path.iterdir())


def test_no_right(tmp_path: Path) -> None:
    denied = PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(InputError, match="out.pt' cannot be written: Permission denied. Choose another place"):
        _fail(tmp_path / "out.pt", denied)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    message = "a.png' cannot be written: the name is too long. Choose a shorter one"
    with pytest.raises(InputError, match=message), beside(tmp_path / ("a" * 300 + ".png")) as place:
        place.write_text("1")
    assert not list(tmp_path.iterdir())


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    target.write_text("whole")
    code = (
        "import os, signal\nfrom lightning_clip.core.atomic import beside\n"
        f"with beside({str(target)!r}) as place:\n"
        "    place.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, env={**os.environ, "PYTHONPATH": str(Path.cwd())})
    assert killed.returncode == -signal.SIGKILL and target.read_text() == "whole"
