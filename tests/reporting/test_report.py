"""The page and the pictures beside it, whatever words they are named by."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from lightning_clip.evaluation.image_grids import wrapped
from lightning_clip.reporting.html import Section, write_report

LONG = {"latin": "A blond woman waits for a ride. " * 20, "chinese": "一个女孩走进一个木结构。" * 30}


@pytest.mark.parametrize("caption", LONG.values(), ids=LONG)
def test_pictures_named_by_long_captions(tmp_path: Path, caption: str) -> None:
    """Two that begin alike are two files; each has a name that other systems take, too."""
    figures = [(caption, Figure(figsize=(1, 1))), (caption + "!", Figure(figsize=(1, 1)))]
    write_report(tmp_path / "report.html", "Report", "", [Section("found for a caption", figures=figures)])
    names = sorted(path.name for path in (tmp_path / "report_figures").iterdir())
    assert len(names) == 2 and names[0].removesuffix(".png") + "_2.png" in names
    assert all(name.startswith("found_for_a_caption_") and len(name.encode()) < 120 for name in names)
    assert (tmp_path / "report.html").read_text().count("data:image/png") == 2


def test_text_that_is_cut_says_so() -> None:
    assert wrapped("two dogs run on the beach", 11, 2) == "two dogs\nrun on …"
    assert wrapped("two dogs run on", 12, 2) == "two dogs run\non"
    assert wrapped(LONG["chinese"], 24, 3).endswith("…")
