"""A trained run and a way to run commands in this process, for everything hostile that is put to them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import IMAGE, TEXT

from lightning_clip.cli import main

Command = Callable[..., tuple[int, str]]
SYNTHETIC = {"name": "synthetic", "size": 16, "image_size": 32}


def recipe_of(folder: Path, **trainer: Any) -> dict[str, Any]:
    """A recipe of two steps that writes `last.ckpt` into a folder."""
    return {
        "model": {
            "image_encoder": IMAGE,
            "text_encoder": TEXT,
            "embed_dim": 16,
            "tokenizer": {"name": "clip", "context_length": 16},
            "training": {"optimizer": {"warmup_steps": 1}},
        },
        "data": {
            "train": SYNTHETIC,
            "val": {**SYNTHETIC, "split": "val"},
            "test": {**SYNTHETIC, "split": "test"},
            "local_batch_size": 8,
        },
        "trainer": {
            "max_steps": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "num_sanity_val_steps": 0,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": str(folder),
            "callbacks": [
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {"dirpath": str(folder), "filename": "last"},
                }
            ],
            **trainer,
        },
    }


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; returns its exit code and what it said, of which no line may be a traceback's."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> tuple[int, str]:
        try:
            code = main(arguments)
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 1
        printed = capsys.readouterr()
        assert "Traceback (most recent call last)" not in printed.err + printed.out
        return code, printed.err

    return run


@pytest.fixture
def refuses(command: Command) -> Callable[..., None]:
    """Runs a command that must end with exit code 2 and one line that a pattern finds."""

    def run(*arguments: str, match: str) -> None:
        code, said = command(*arguments)
        lines = [line for line in said.splitlines() if line.startswith("lightning-clip")]
        assert code == 2 and len(lines) == 1, (code, said)
        assert re.search(match, lines[0]), lines[0]

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `fit` ran: recipe.yaml, last.ckpt."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(folder)))
    assert main(["fit", "--config", str(folder / "recipe.yaml")]) == 0
    return folder
