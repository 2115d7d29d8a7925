"""What the documentation shows in YAML and Python is what the code takes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small import IMAGE, TEXT

from lightning_clip import ClipModule, SoftmaxContrastiveLoss
from lightning_clip.data import pair_sources

DOCS = Path(__file__).resolve().parent.parent / "docs" / "concepts"
TEXT_OF_PAGES = {page.stem: page.read_text() for page in sorted(DOCS.glob("*.md"))}


def model_settings() -> list[Any]:
    found = []
    for page, text in TEXT_OF_PAGES.items():
        for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", text, flags=re.S)):
            settings = yaml.safe_load(block)
            if isinstance(settings, dict) and isinstance(model := settings.get("model"), dict) and "class_path" not in model:
                found.append(pytest.param(model, id=f"{page}-{number}"))
    return found


@pytest.mark.parametrize("settings", model_settings())
def test_settings_of_a_model_are_taken(settings: dict[str, Any]) -> None:
    small = {"image_encoder": IMAGE, "text_encoder": TEXT, "embed_dim": 16}
    ClipModule(**{**settings, **small, "pretrained": None})  # weights that a page names are not here


def data_settings() -> list[Any]:
    found = []
    for page, text in TEXT_OF_PAGES.items():
        for number, block in enumerate(re.findall(r"```yaml\n(data:.*?)```", text, flags=re.S)):
            for split, source in yaml.safe_load(block)["data"].items():
                if split in ("train", "val", "test") and isinstance(source, dict) and "name" in source:
                    found.append(pytest.param(source, id=f"{page}-{number}-{split}"))
    return found


@pytest.mark.parametrize("settings", data_settings())
def test_settings_of_a_source_are_taken(settings: dict[str, Any]) -> None:
    factory = pair_sources.factory(settings["name"])
    inspect.signature(factory).bind_partial(**{key: value for key, value in settings.items() if key != "name"})


def test_pages_show_settings() -> None:
    assert len(model_settings()) >= 2 and len(data_settings()) >= 3


@pytest.mark.parametrize("call", re.findall(r"^(SoftmaxContrastiveLoss\(.*\))$", TEXT_OF_PAGES["losses"], flags=re.M))
def test_losses_are_built(call: str) -> None:
    assert isinstance(eval(call), SoftmaxContrastiveLoss)


def test_columns_beyond_image_and_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page's Python, run in order in a folder of its own, prints what its comments say."""
    monkeypatch.chdir(tmp_path)
    section = TEXT_OF_PAGES["data"].partition("\n## Columns beyond image and text\n")[2].partition("\n## ")[0]
    names: dict[str, Any] = {"__name__": "page"}
    blocks = re.findall(r"```python\n(.*?)```", section, flags=re.S)
    for block in blocks:
        exec(block, names)
    said = re.findall(r"^print\(.*\)  # (.*)$", "\n".join(blocks), flags=re.M)
    printed = capsys.readouterr().out.splitlines()  # progress bars among them
    assert len(said) == 2 and [line for line in printed if line in said] == said


@pytest.mark.parametrize("page", sorted(TEXT_OF_PAGES))
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+\.md)", TEXT_OF_PAGES[page]):
        assert (DOCS / target).is_file(), target
