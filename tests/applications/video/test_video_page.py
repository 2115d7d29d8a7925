"""The commands on the page about videos do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from small import save_checkpoint
from videos import write_video

from lightning_clip.cli import main

PAGE = (Path(__file__).resolve().parents[3] / "docs/applications/video.md").read_text()


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, colour in (("dance", (200, 0, 0)), ("goal", (0, 0, 200))):
        write_video(tmp_path / f"media/{name}.mp4", [np.full((32, 32, 3), colour, np.uint8)] * 5)
    save_checkpoint(tmp_path / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    [block] = re.findall(r"<!-- run: video_search -->\n```console\n(.*?)```", PAGE, re.S)
    for command in block.strip().splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert capsys.readouterr().out.count(".mp4 at 0:00") == 2 and (tmp_path / "found.png").exists()
