"""What escapes a command: one line, a code, and no traceback unless it is asked for."""

from __future__ import annotations

import errno
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_clip import InputError, cli
from lightning_clip.commands import faults, tokenizer


def _raising(error: BaseException) -> Callable[..., None]:
    def run(_: object) -> None:
        raise error

    return run


def _said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException) -> tuple[int, str]:
    monkeypatch.delenv(faults.TRACEBACK, raising=False)
    monkeypatch.setattr(tokenizer, "run", _raising(error))
    code = cli.main(["tokenizer", "train", "--data", "captions", "--output", "words.json", "--vocab-size", "600"])
    printed = capsys.readouterr()
    assert not printed.out and printed.err.count("\n") == 1
    return code, printed.err


SYSTEM = {
    "full": (OSError(errno.ENOSPC, "No space left on device", "runs/a"), "'runs/a': the disk is full: make room"),
    "full, as torch says it": (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "the disk is full"),
    "right": (PermissionError(errno.EACCES, "Permission denied", "a.csv"), "'a.csv': Permission denied: choose another place"),
    "read only": (OSError(errno.EROFS, "Read-only file system", "a"), "'a': the file system can only be read"),
    "no file": (FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), "'a': No such file or directory"),
    "many files": (OSError(errno.EMFILE, "Too many open files"), "raise the limit of open files"),
    "memory": (MemoryError(), "the memory is full: use smaller batches"),
}


@pytest.mark.parametrize("name", SYSTEM)
def test_the_machine_is_no_fault_of_ours(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, message = SYSTEM[name]
    code, line = _said(monkeypatch, capsys, error)
    assert code == 2 and message in line and "fault of lightning_clip" not in line


def test_ours(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, line = _said(monkeypatch, capsys, KeyError("nothing\nof that name"))
    assert code == 70
    assert line.startswith("lightning-clip: error: KeyError: 'nothing\\nof that name' (raised by ")  # this test's own function
    monkeypatch.setattr(faults, "_is_own", lambda path: faults._PACKAGE in path.parents)
    code, line = _said(monkeypatch, capsys, ZeroDivisionError("by 0"))
    assert code == 70
    assert "in lightning_clip/cli.py, line" in line
    assert "this is a fault of lightning_clip, run with LIGHTNING_CLIP_TRACEBACK=1 for the traceback, and report it" in line


def test_an_error_without_words_or_with_many(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "AssertionError: AssertionError" in _said(monkeypatch, capsys, AssertionError())[1]
    assert len(_said(monkeypatch, capsys, ValueError("x" * 10_000))[1]) < 700


def test_a_plug_in(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def broken():\n    return [][1]\n")
    with pytest.raises(IndexError) as caught:
        runpy.run_path(str(tmp_path / "mine.py"))["broken"]()
    assert f"raised by {tmp_path / 'mine.py'}, line 2;" in faults._place(caught.value)


@pytest.mark.parametrize("error", [InputError("a wrong value"), KeyError("a fault")])
def test_the_traceback_where_it_is_asked_for(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(faults.TRACEBACK, "1")
    with pytest.raises(type(error)) as caught:
        faults.said(error)
    assert caught.value is error


def test_a_loaders_worker_is_told_in_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = "Caught InputError in worker 0.\nOriginal Traceback (most recent call last):\n  File x\nInputError: no such image"
    assert faults.said(InputError(text)) == 2
    assert capsys.readouterr().err == "lightning-clip: error: no such image\n"
