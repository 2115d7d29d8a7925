"""recipes/methods/: each stands over another recipe, builds, and learns from a batch of its data."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from corners import corners
from small import save_checkpoint, small_trainer

from lightning_clip.commands.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[2]
METHODS = sorted((ROOT / "recipes" / "methods").glob("*.yaml"))
SMALL = ["--data.train.size=40", "--data.local_batch_size=20", "--data.num_workers=0"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's checkpoint, untrained."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "demo").mkdir()
    save_checkpoint(folder / "demo" / "last.ckpt", read_recipe([str(ROOT / "recipes/demo.yaml")], SMALL).module)
    return folder


def read(path: Path, *options: str) -> Recipe:
    return read_recipe([str(ROOT / "recipes/demo.yaml"), str(path)], [*SMALL, *options])


@pytest.mark.parametrize(
    "path",
    corners(METHODS, *(path for path in METHODS if path.stem in ("siglip2", "negclip", "tips"))),
    ids=lambda path: path.stem,
)
def test_a_step(path: Path, demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of a fit is taken, with each part of the loss a number."""
    monkeypatch.chdir(demo)
    recipe = read(path)
    trainer = small_trainer(demo, max_steps=1)
    trainer.fit(recipe.module, recipe.data)
    losses = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("train/")}
    assert trainer.global_step == 1 and losses["train/loss"] > 0
    assert all(math.isfinite(value) for value in losses.values())


def test_each_has_its_section_on_the_page() -> None:
    page = (ROOT / "docs" / "concepts" / "methods.md").read_text("utf-8")
    assert [path.stem for path in METHODS if f"recipes/methods/{path.name}" not in page] == []


def test_each_file_has_the_lines_that_the_page_says() -> None:
    page = (ROOT / "docs" / "concepts" / "methods.md").read_text("utf-8")
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| (\d+) \|", page, re.M)
    assert len(rows) >= 12
    for name, lines in rows:
        found = [path for room in ("objectives", "tasks") if (path := ROOT / "lightning_clip" / room / f"{name}.py").is_file()]
        assert sum(bool(line.strip()) for line in found[0].read_text("utf-8").splitlines()) == int(lines), name
        assert int(lines) <= 80 or name == "distillation"
