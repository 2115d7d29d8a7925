"""Terminals that have ASCII alone, and names that are no text: whatever a command prints, it does not end it."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from small import IMAGE, TEXT, save_checkpoint, small_module, write_folder

from lightning_clip.cli import main
from lightning_clip.core.plain_text import forgiving_streams, showable
from lightning_clip.reporting.terminal import PlainConsole

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def in_ascii(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs a command with stdout and stderr that know ASCII alone; returns its code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        with monkeypatch.context() as patched:
            written = io.BytesIO()
            stream = io.TextIOWrapper(written, encoding="ascii", errors="strict", write_through=True)
            patched.setattr(sys, "stdout", stream)
            patched.setattr(sys, "stderr", stream)
            code = main(arguments)
            stream.flush()
            return code, written.getvalue().decode("ascii")

    return run


def recipe(folder: Path) -> str:
    """A run of three steps with all that prints."""
    scenes = {"name": "synthetic", "size": 24, "image_size": 32}
    report: Any = {"class_path": "lightning_clip.Report", "init_args": {"path": "report.html", "title": "模型 → Zürich"}}
    saver: Any = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {"dirpath": ".", "filename": "last"},
    }
    sets = {"gehörtes": {**scenes, "held_out": True, "templates": ["a {}"]}}
    zero_shot = {"class_path": "lightning_clip.ZeroShotClassification", "init_args": {"datasets": sets}}
    content = {
        "model": {
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "embed_dim": 16,
            "tokenizer": {"name": "clip", "context_length": 24},
            "training": {"optimizer": {"lr": 1e-3, "warmup_steps": 1}},
        },
        "data": {"train": scenes, "val": scenes, "test": scenes, "local_batch_size": 8},
        "trainer": {
            "max_steps": 3,
            "accelerator": "cpu",
            "logger": False,
            "callbacks": [{"class_path": "lightning_clip.Retrieval"}, zero_shot, report, saver],
        },
    }
    (folder / "rezept_ü.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return "rezept_ü.yaml"


@pytest.mark.slow
def test_fit_and_test(in_ascii: Command, tmp_path: Path) -> None:
    name = recipe(tmp_path)
    code, said = in_ascii("fit", "--config", name)
    assert code == 0 and "text -> image R@10" in said and "?? -> Z?rich" in said and "geh?rtes: zero-shot top-1" in said
    assert "模型 → Zürich" in (tmp_path / "report.html").read_text(encoding="utf-8")  # files have all letters
    code, said = in_ascii("test", "--config", name, "--ckpt_path", "last.ckpt")
    assert code == 0 and "image -> text R@5" in said
    code, said = in_ascii("validate", "--config", name, "--ckpt_path", "last.ckpt")
    assert code == 0 and "val/zero_shot/geh?rtes/top1" in said


def test_other_commands(in_ascii: Command, tmp_path: Path) -> None:
    table = write_folder(tmp_path / "Bilder_ü", count=4)
    table.write_text(table.read_text().replace("picture", "犬 “photo” – № "), encoding="utf-8")
    Image.new("RGB", (40, 40), "red").save(tmp_path / "猫.png")
    checkpoint = str(save_checkpoint(tmp_path / "模型.ckpt", small_module()))
    for arguments in (
        ("recipes",),
        ("plan", "--config", "demo"),
        ("data", "inspect", "--data", str(table)),
        ("data", "verify", "--data", str(table)),
        ("classify", "猫.png", "--labels", "猫,犬", "--checkpoint", checkpoint),
        ("explain", "猫.png", "--text", "eine Tür → ein Haus", "--checkpoint", checkpoint, "--output", "ü.png"),
        ("index", "build", "--data", str(table), "--checkpoint", checkpoint, "--output", "ü.index"),
        ("index", "info", "ü.index"),
        ("search", "ü.index", "犬"),
        ("tokenizer", "train", "--data", str(table), "--vocab-size", "300", "--output", "wörter.json"),
        ("prompts", "show", "simple"),
    ):
        code, said = in_ascii(*arguments)
        assert code == 0, (arguments, said)
    code, said = in_ascii("classify", "fehlt_ü.png", "--labels", "a,b", "--checkpoint", checkpoint)
    assert code == 2 and "'fehlt_?.png' does not exist" in said


def test_names_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a file's name that are no UTF-8 are surrogates in Python, which no encoding has."""
    name = os.fsdecode(b"photo_\xff.png")
    assert showable(name, "utf-8") == "photo_?.png" and showable("狗 “a”…", "latin-1") == '? "a"...'
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="utf-8", errors="strict", write_through=True)
    forgiving_streams(stream)
    print(name, "→", file=stream)
    assert written.getvalue().decode() == "photo_?.png →\n"


def test_streams_that_are_none_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as under pythonw
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    forgiving_streams()
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace")
    forgiving_streams(stream)
    assert stream.errors == "backslashreplace"  # it raises nothing


def test_a_table_is_straight_in_ascii() -> None:
    from rich.table import Table

    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    console = PlainConsole(file=stream, width=40)
    table = Table("name", "share")
    table.add_row("Zürich → Genève", "1 %")
    console.print(table)
    lines = stream.buffer.getvalue().decode("ascii").splitlines()  # type: ignore[attr-defined]
    assert len(set(map(len, lines))) == 1 and "| Z?rich -> Gen?ve |" in lines[3]
