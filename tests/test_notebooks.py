"""The notebooks of the documentation run in a kernel of their own, from the first cell to the last."""

from __future__ import annotations

import ast
import json
import resource
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
IDS = [file.stem for file in FILES]


def read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def test_there_are_three() -> None:
    assert IDS == ["adapt_published_weights", "search_your_photographs", "train_on_your_folder"]


@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_notebook_is_clean(file: Path) -> None:
    """No outputs are stored, code parses, its page stands in the navigation, and links lead to pages or notebooks."""
    notebook = read(file)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 5 and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    for cell in code:
        ast.parse("".join(cell["source"]))
    assert f"notebooks/{file.stem}.md" in (ROOT / "mkdocs.yml").read_text()
    texts = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    targets = [part.split(")")[0] for part in texts.split("](")[1:]]
    assert targets
    for target in targets:
        path = (file.parent / target).resolve()
        assert path.is_file() or path.with_suffix(".ipynb").is_file(), target


@pytest.mark.parametrize("name", ["adapt_published_weights", "search_your_photographs"])
def test_the_line_for_published_weights_stands_beside_the_local_ones(name: str) -> None:
    code = "".join("".join(cell["source"]) for cell in read(ROOT / f"docs/notebooks/{name}.ipynb")["cells"])
    assert '= "base.ckpt"  # or "open_clip:ViT-B-32/laion2b_s34b_b79k"' in code


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", FILES, ids=IDS)
def test_a_notebook_runs(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every cell, in an empty folder, within a minute of one CPU; cells that claim something assert it."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    nbclient.NotebookClient(
        notebook, timeout=800, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 60
