"""The page and the pictures beside it, whatever words they are named by."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from lightning_clip.evaluation.image_grids import wrapped
from lightning_clip.reporting.html import Section, Table, write_report
from lightning_clip.reporting.parts import laid_out
from lightning_clip.reporting.plots import confusion_figure, curves_figure
from lightning_clip.reporting.sheets import contact_sheet

LONG = {"latin": "A blond woman waits for a ride. " * 20, "chinese": "一个女孩走进一个木结构。" * 30}
NASTY = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def plot(title: str = "a plot") -> Figure:
    return curves_figure({"one": [(1, 0.5), (2, 0.25)]}, title)


def written(folder: Path, *sections: Section, title: str = "Report", subtitle: str = "") -> str:
    write_report(folder / "report.html", title, subtitle, sections)
    return (folder / "report.html").read_text("utf-8")


@pytest.mark.parametrize("caption", LONG.values(), ids=LONG)
def test_pictures_named_by_long_captions(tmp_path: Path, caption: str) -> None:
    """Two that begin alike are two files; each has a name that other systems take, too."""
    figures = [(caption, Figure(figsize=(1, 1))), (caption + "!", Figure(figsize=(1, 1)))]
    page = written(tmp_path, Section("found for a caption", figures=figures))
    names = sorted(path.name for path in (tmp_path / "report_figures").iterdir())
    assert len(names) == 2 and names[0].removesuffix(".png") + "_2.png" in names
    assert all(name.startswith("found_for_a_caption_") and len(name.encode()) < 120 for name in names)
    assert page.count("<svg ") == 2


def test_text_that_is_cut_says_so() -> None:
    assert wrapped("two dogs run on the beach", 11, 2) == "two dogs\nrun on …"
    assert wrapped("two dogs run on", 12, 2) == "two dogs run\non"
    assert wrapped(LONG["chinese"], 24, 3).endswith("…")


def test_texts_of_others_are_nowhere_obeyed(tmp_path: Path) -> None:
    """In headings, the list of contents, tables, captions, plots with their names, and commands."""
    sheet = contact_sheet([np.zeros((3, 8, 8), np.uint8)], [NASTY])
    figures = [(NASTY, plot(NASTY)), (NASTY, sheet), ("c", confusion_figure(torch.eye(2).long(), [NASTY, "b"]))]
    section = Section(NASTY, NASTY, Table((NASTY, "b"), [(NASTY, "1")]), figures, NASTY)
    page = written(tmp_path, section, section, title=NASTY, subtitle=NASTY)
    assert page.count("alert(1)") >= 16 and "<script>alert" not in page
    assert re.findall(r"<img src", page) == [] and page.count("<script>") == 1


def test_the_page_forbids_other_scripts_and_fetches_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, Section("One", table=Table(("a", "b"), [("1", "2")]), figures=[("p", plot())]))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in page
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\((?!#)|@import", page)


def test_contents_lead_to_their_sections(tmp_path: Path) -> None:
    page = written(tmp_path, Section("First"), Section("Second & third"))
    assert '<a href="#s2">Second &amp; third</a>' in page and '<section id="s2"><h2>Second &amp; third</h2>' in page
    assert "Contents" not in written(tmp_path, Section("Alone"))


def test_small_parts_stand_two_in_a_row_and_none_alone() -> None:
    narrow, wide = Table(("a", "b"), [("x", "1")]), Table(tuple("abcde"), [tuple("12345")])
    three = [("one", plot()), ("two", plot()), ("three", plot())]
    assert laid_out(Section("", table=narrow, figures=three)).count(" all") == 0
    assert laid_out(Section("", figures=three)).count('"plot all"') == 1
    assert laid_out(Section("", table=narrow)).startswith('<div class="parts"><div class="scroll all">')
    assert laid_out(Section("", table=wide, figures=three[:2])).count(" all") == 1
    assert laid_out(Section("")) == ""


def test_columns_of_figures_stand_right() -> None:
    rows = [("cat", "12.5 %", "3", "74.9 to 76.5"), ("3 dogs", "-1,250", "", "+0.3 to 1.0")]
    found = laid_out(Section("", table=Table(("class", "value", "n", "interval"), rows)))
    assert '<th>class</th><th class="number">value</th><th class="number">n</th><th class="number">interval</th>' in found
    assert '<td class="number">-1,250</td>' in found and "<td>3 dogs</td>" in found


class TestPlots:
    def test_texts_stay_texts_in_the_pages_colour(self) -> None:
        found = laid_out(Section("", figures=[("p", plot("机器学习"))]))
        assert "机器学习" in found and "#000000" not in found and "currentColor" in found
        assert re.search(r'<svg role="img" aria-label="p" [^>]*viewBox', found) and not re.search(r"<svg[^>]* width=", found)

    def test_the_same_figure_is_the_same_page(self, tmp_path: Path) -> None:
        pages = [written(tmp_path, Section("One", figures=[("p", plot())])) for _ in range(2)]
        assert pages[0] == pages[1]

    def test_thousands_of_points_are_a_picture(self) -> None:
        figure = Figure(figsize=(4, 3))
        figure.add_subplot().scatter(*np.random.default_rng(0).random((2, 6000)))
        found = laid_out(Section("", figures=[("points", figure)]))
        assert "<svg" not in found and '<img alt="points" src="data:image/png;base64,' in found

    def test_dollars_are_no_formulas(self, tmp_path: Path) -> None:
        names = ["from $5 to $9", r"$\frac{$"]
        page = written(tmp_path, Section("One", figures=[("c", confusion_figure(torch.eye(2).long(), names))]))
        assert all(f">{name}<" in page for name in names)


class TestSheets:
    def test_cells_hold_the_pictures_and_their_captions(self) -> None:
        images = [np.full((3, 10, 20), shade, np.uint8) for shade in (0, 90, 200)]
        sheet = contact_sheet(images, ["a cat\non a mat", "dog 9 %\n(is cat)", "一只猫\n坐着"], ["good", "bad", "plain"])
        found = laid_out(Section("", figures=[("s", sheet)]))
        captions = re.findall(r'<figcaption class="(\w+)">(.*?)</figcaption>', found, re.DOTALL)
        assert captions == [("good", "a cat on a mat"), ("bad", "dog 9 %\n(is cat)"), ("plain", "一只猫坐着")]
        assert found.count('<img class="small"') == 3 and "--columns" not in found

    def test_rows_with_a_meaning_are_kept(self) -> None:
        sheet = contact_sheet([np.zeros((3, 300, 400), np.uint8)] * 6, [str(n) for n in range(6)], columns=3)
        found = laid_out(Section("", figures=[("s", sheet)]))
        assert '<div class="sheet rows" style="--columns: 3">' in found and "data:image/jpeg" in found and "small" not in found

    def test_as_a_figure_too(self, tmp_path: Path) -> None:
        sheet = contact_sheet([np.zeros((3, 8, 8), np.uint8)] * 9, list("abcdefghi"))
        assert len(sheet.axes) == 9 and [text.get_text() for text in sheet.texts] == list("abcdefghi")
        left, bottom, _, _ = sheet.axes[8].get_position().bounds
        assert bottom < sheet.axes[0].get_position().bounds[1] and left == sheet.axes[0].get_position().bounds[0]
