"""recipes/detection/: both steps and the measurement run as the page says, in small."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from lightning_clip.cli import main

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs/recipes/detection.md").read_text("utf-8")
TINY = ("--data.train.size=16", "--data.local_batch_size=8", "--trainer.max_steps=2", "--trainer.accelerator=cpu")


@pytest.mark.slow
def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A fit on captions, one on boxes from its towers, and a report with groups of classes."""
    monkeypatch.chdir(tmp_path)
    found = re.search(r"<!-- run: detection_recipes -->\n```console\n(.*?)```", PAGE, re.S)
    assert found
    pairs, boxes, evaluate = (shlex.split(line)[1:] for line in found[1].strip().splitlines())
    for arguments in (pairs, boxes):
        assert main([*arguments, *TINY]) == 0
    suite = yaml.safe_load((ROOT / f"recipes/{evaluate[2]}.yaml").read_text())
    suite["sets"]["scenes"]["size"] = 4
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    assert main([evaluate[0], "--suite", "suite.yaml", *evaluate[3:]]) == 0
    assert "map50" in capsys.readouterr().out
    assert "map50/seen" in (tmp_path / "runs/detection/evaluation/report.html").read_text("utf-8")
