"""The commands and the Python on the pages about boxes, areas, relevance and pictures of words do what they say."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from small import save_checkpoint, small_module, write_folder

from lightning_clip.cli import main

PAGES = Path(__file__).resolve().parents[2] / "docs/applications"
BLOCK = r"<!-- run: {} -->\n```\w+\n(.*?)```"
OF = {
    "detect": "detection.md",
    "segment": "segmentation.md",
    "explain": "relevance.md",
    "imagine": "imagine.md",
    "silence": "typography.md",
}
WRITTEN = {
    "detect": "found/two.boxes.json",
    "segment": "areas/two.mask.png",
    "explain": "texts.png",
    "imagine": "steps.png",
    "silence": "defended/README.md",
}


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs and a model."""
    write_folder(tmp_path / "photos", count=2)
    for number, name in enumerate(("one", "two")):
        (tmp_path / f"photos/{number}.jpg").rename(tmp_path / f"photos/{name}.jpg")
    vit = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 32, "num_heads": 2}
    save_checkpoint(tmp_path / "last.ckpt", small_module(image_encoder=vit))
    save_checkpoint(tmp_path / "boxes.ckpt", small_module(image_encoder=vit, objective="detection"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def block(name: str) -> str:
    page = (PAGES / OF[name.removesuffix("_python")]).read_text()
    found = re.search(BLOCK.format(name), page, re.S)
    assert found
    return found[1].strip()


@pytest.mark.parametrize("name", WRITTEN)
def test_commands(name: str, inside: Path) -> None:
    for command in block(name).splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert (inside / WRITTEN[name]).exists()


@pytest.mark.parametrize(
    ("name", "lines"),
    [("detect_python", 2), ("segment_python", 2), ("explain_python", 2), ("imagine_python", 2), ("silence_python", 2)],
)
def test_python(name: str, lines: int, inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block(name), name, "exec"), {})
    assert len(capsys.readouterr().out.strip().splitlines()) >= lines
