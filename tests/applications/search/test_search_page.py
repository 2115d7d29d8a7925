"""The commands on the page about search, and the README's, do what they say."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from small import write_folder

from lightning_clip.cli import main

ROOT = Path(__file__).resolve().parents[3]
PAGE, README = (ROOT / "docs/applications/search.md").read_text(), (ROOT / "README.md").read_text()
BLOCK = r"<!-- run: {} -->\n```\w+\n(.*?)```"


@pytest.fixture
def inside(tmp_path: Path, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs and a model."""
    write_folder(tmp_path / "photos", count=6)
    shutil.move(tmp_path / "photos/0.jpg", tmp_path / "photos/one.jpg")
    table = tmp_path / "photos/captions.jsonl"
    table.write_text(table.read_text().replace("0.jpg", "one.jpg").replace("picture 1", "a red circle"))
    shutil.copy(checkpoint, tmp_path / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", [PAGE, README], ids=["page", "readme"])
def test_commands(text: str, inside: Path) -> None:
    found = re.search(BLOCK.format("search"), text, re.S)
    assert found
    for command in found[1].strip().splitlines():
        assert main(shlex.split(command)[1:]) == 0, command
    assert (inside / "found.png").exists() or text is README


def test_stores(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The server on the page is one of ours here, which answers by the client's own collections."""
    pytest.importorskip("lancedb")
    pytest.importorskip("qdrant_client")
    from applications.search.qdrant_server import qdrant

    found = re.search(BLOCK.format("search_stores"), PAGE, re.S)
    assert found
    with qdrant() as server:
        for command in found[1].strip().splitlines():
            words = [word.replace("http://localhost:6333", server.url) for word in shlex.split(command)[1:]]  # type: ignore[attr-defined]
            assert main(words) == 0, command
    out = "".join(capsys.readouterr().out.split())
    assert "Qdrantcollection'photos'at" in out and (inside / "lance.index/vectors.lance").is_dir()


def test_python(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = re.search(BLOCK.format("search_python"), PAGE, re.S)
    assert found
    exec(found[1], {})
    assert len(capsys.readouterr().out.strip().splitlines()) >= 3
