"""Each protocol has a page with its source and settings that it takes; the example of a protocol of one's own runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import save_checkpoint

from lightning_clip.cli import main
from lightning_clip.evaluation.protocols import protocols
from lightning_clip.evaluation.suite import Suite, built_protocols

ROOT = Path(__file__).resolve().parent.parent
PAGES = {page.stem: page.read_text() for page in sorted((ROOT / "docs/protocols").glob("*.md"))}
CONCEPT = (ROOT / "docs/concepts/evaluating.md").read_text()
BUILT_IN = [name for name in protocols.names() if protocols.factory(name).__module__.startswith("lightning_clip.")]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_protocol_has_a_page(name: str) -> None:
    page = PAGES[name]
    assert "**Source**" in page and f"](../protocols/{name}.md)" in CONCEPT
    assert f"protocols/{name}.md" in (ROOT / "mkdocs.yml").read_text()
    assert f"protocols.{name}" in (ROOT / "docs/api/evaluation.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_settings_on_the_page_are_taken(name: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGES[name], re.S)
    assert blocks
    built = [
        protocol
        for block in blocks
        for spec in Suite.parse(yaml.safe_load(block)).sets.values()
        for _, protocol in built_protocols(spec["protocols"])
    ]
    assert any(isinstance(protocol, protocols.factory(name)) for protocol in built)  # type: ignore[arg-type]


def test_the_suite_of_the_concept_is_one() -> None:
    suite = Suite.parse(yaml.safe_load(re.findall(r"```yaml\n(output.*?)```", CONCEPT, re.S)[0]))
    assert list(suite.sets) == ["pets", "photos"] and suite.trainer == {"devices": 1}


def small_suite(folder: Path) -> dict[str, Any]:
    """recipes/evaluation/scenes.yaml with fewer images."""
    suite: dict[str, Any] = yaml.safe_load((ROOT / "recipes/evaluation/scenes.yaml").read_text())
    suite["sets"]["held_out"] |= {"size": 32, "train": {"split": "train", "size": 64}}
    suite["sets"]["scenes"]["size"] = 12
    small = {"compositional": {"size": 2}, "few_shot": {"shots": [1, 2], "seeds": 1}}
    entries = suite["sets"]["held_out"]["protocols"]
    suite["sets"]["held_out"]["protocols"] = [
        {"name": entry, **small[entry]} if isinstance(entry, str) and entry in small else entry for entry in entries
    ]
    (folder / "evaluation").mkdir()
    (folder / "evaluation/scenes").write_text(  # of that name, one's own comes first
        yaml.safe_dump({**suite, "trainer": {"accelerator": "cpu"}})
    )
    return suite


@pytest.mark.slow
def test_the_readmes_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text()
    (command,) = re.findall(r"<!-- run: evaluate -->\n```console\n(.*?)\n```", readme, re.S)
    save_checkpoint(tmp_path / "last.ckpt")
    small_suite(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)[1:]) == 0
    page = (tmp_path / "evaluation/report.html").read_text()
    for words in ("Linear probe", "few-shot", "Twins of scenes", "images found for a caption"):
        assert words in page
    assert "http://" not in page and "https://" not in page
    assert "report: evaluation/report.html" in capsys.readouterr().out


def test_a_protocol_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", CONCEPT, re.S) if "protocols.register" in block)
    monkeypatch.setattr(protocols, "_factories", dict(protocols._factories))
    exec(compile(code, "concept", "exec"), {"__name__": "example"})
    save_checkpoint(tmp_path / "last.ckpt")
    scenes = {"name": "synthetic", "size": 6, "image_size": 32, "protocols": ["size_of_features"]}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"sets": {"scenes": scenes}, "trainer": {"accelerator": "cpu"}}))
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "--checkpoint", "last.ckpt", "--suite", "suite.yaml"]) == 0
    assert "Mean length" in (tmp_path / "evaluation/report.html").read_text()
