"""The commands on the page about plug-ins do what the page says, one after the other."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands.plugins import isolated

from lightning_clip.cli import main
from lightning_clip.core.plugins import GROUP, PLUGINS_KEY

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs/concepts/extending.md").read_text()
FILES = dict(re.findall(r"<!-- file: ([\w.]+) -->\n```\w+\n(.*?)```", PAGE, re.S))
COMMANDS = re.findall(r"<!-- run: plugins -->\n```console\n(.*?)```", PAGE, re.S)[0].strip().splitlines()


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    quick = ["--trainer.accelerator=cpu", "--trainer.max_steps=4", "--trainer.logger=false"]
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        with isolated(tmp_path):
            assert program == "lightning-clip" and main([*arguments, *(quick if arguments[0] == "fit" else ())]) == 0, command
        assert "my_names" not in sys.modules
    assert (tmp_path / "greys.png").exists() and "light grey" in capsys.readouterr().out
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept["imports"] == [str(tmp_path / "my_names.py")]
    assert kept["model"]["init_args"]["training"] == {"optimizer": {"lr": 0.01}}
    assert torch.load(tmp_path / "runs/greys/last.ckpt", weights_only=True)[PLUGINS_KEY] == ["my_names.py"]


def test_the_entry_point_is_that_of_the_code() -> None:
    assert f'[project.entry-points."{GROUP}"]' in PAGE
