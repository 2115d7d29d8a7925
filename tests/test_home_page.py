"""The home page and the pictures of the benchmarks: figures are those of the pages and tables that they come from."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs_build"))
import draw_benchmarks  # noqa: E402
import draw_overview  # noqa: E402

HOME = (ROOT / "docs/index.md").read_text()
ROWS = re.findall(r"^\| \[\w+\]\((recipes/\w+\.md)\) \|.*\| ([\d.]+) % \| ([\d.]*) ?%? ?\|$", HOME, flags=re.M)


def test_the_table_has_rows() -> None:
    assert len(ROWS) >= 8


@pytest.mark.parametrize(("page", "result", "chance"), ROWS, ids=[page for page, *_ in ROWS])
def test_results_are_those_of_their_pages(page: str, result: str, chance: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    for figure in filter(None, (result, chance)):
        assert re.search(rf"(?<![\d.]){re.escape(figure)}(?![\d])", text), figure


def test_the_repository_is_linked_only_if_the_project_names_it() -> None:
    named = "[project.urls]" in (ROOT / "pyproject.toml").read_text()
    assert ("repo_url" in (ROOT / "mkdocs.yml").read_text()) == named


def test_the_overview_is_what_its_script_draws() -> None:
    assert (ROOT / "docs/images/overview.svg").read_text() == draw_overview.overview()


@pytest.mark.parametrize("name", draw_benchmarks.PICTURES)
def test_pictures_show_the_tables_of_today(name: str) -> None:
    """A table that was measured again wants its picture drawn again: python docs_build/draw_benchmarks.py."""
    read, _ = draw_benchmarks.PICTURES[name]
    with Image.open(ROOT / "docs/images" / name) as picture:
        assert picture.info["Description"] == draw_benchmarks.digest(read())
    assert f"images/{name}" in (ROOT / "docs/benchmarks.md").read_text()


def test_pictures_are_drawn(tmp_path: Path) -> None:
    draw_benchmarks.main(tmp_path)
    for name in draw_benchmarks.PICTURES:
        with Image.open(tmp_path / name) as picture:
            assert picture.width == 1040 and len(picture.convert("L").getcolors() or []) > 10


def test_a_row_that_is_gone_is_named() -> None:
    with pytest.raises(KeyError, match="losses of docs/benchmarks.md has no row 'hinge'"):
        draw_benchmarks.row_of("losses", "hinge")
