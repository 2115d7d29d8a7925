"""Texts of others in the terminal and in reports: shown as they are, never obeyed."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.table import Table

from lightning_clip.reporting.terminal import PlainConsole
from lightning_clip.reporting.text import in_markdown

NASTY = "[/a]<script>alert(1)</script>"


def test_a_console_obeys_no_text() -> None:
    stream = io.StringIO()
    table = Table("[red]a", "[/b]", title="[/c] :smile:")
    table.add_row("[link=file:///x]d[/link]", "e\x1b[2J\x07\x9b")
    console = PlainConsole(file=stream, width=80)
    console.print(table)
    console.print("[/f]\x1b]0;title\x07")
    shown = stream.getvalue()
    for text in ("[red]a", "[/b]", "[/c] :smile:", "[link=file:///x]d[/link]", "[/f]"):
        assert text in shown
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown)


def test_markdown_holds_no_html_no_links_and_no_further_columns() -> None:
    assert in_markdown("a|b\n<script>x</script>") == r"a\|b &lt;script&gt;x&lt;/script&gt;"
    assert in_markdown("![x](http://y)") == r"!\[x\](http:&#47;/y)"
    assert in_markdown("95.0 to 96.1, open_clip") == "95.0 to 96.1, open_clip"


def test_labels_and_file_names(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lightning_clip.cli import main

    Image.new("RGB", (32, 32)).save(tmp_path / "[bold]x[red].png")
    picture = str(tmp_path / "[bold]x[red].png")
    assert main(["classify", picture, "--labels", "[/a],b", "--checkpoint", str(trained / "last.ckpt")]) == 0
    shown = capsys.readouterr().out
    assert "[/a]" in shown and "[bold]x[red].png" in shown


def test_a_suites_names(trained: Path, tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    sets = {NASTY: {"name": "synthetic", "held_out": True, "size": 8, "image_size": 32, "protocols": ["zero_shot"]}}
    trainer = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": sets, "trainer": trainer}))
    out = tmp_path / "out"
    code, said = command(
        "evaluate",
        "--checkpoint",
        f"{NASTY.replace('/', '')}={trained / 'last.ckpt'}",
        "--suite",
        str(tmp_path / "suite.yaml"),
        "--output",
        str(out),
    )
    assert code == 0, said
    for page in ("report.md", "report.html"):
        text = (out / page).read_text()
        assert "<script>alert" not in text and "alert(1)" in text, page


def test_a_recipe_stays_in_its_block_of_a_model_card() -> None:
    from lightning_clip.export.card import _fenced

    text = "notes: |\n  ```\n  # A heading\n  ````\n"
    lines = _fenced("yaml", text).splitlines()
    assert lines[0] == "`````yaml" and lines[-1] == "`````" and lines.count("`````") == 1
    assert _fenced("python", "print(1)") == "```python\nprint(1)\n```"
