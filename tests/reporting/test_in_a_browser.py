"""The page as people see it: on a phone and on a desktop, light and dark, and its tables sorted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import chromium as chromium  # a fixture

from lightning_clip.reporting.html import Section, Table, write_report
from lightning_clip.reporting.plots import curves_figure
from lightning_clip.reporting.sheets import contact_sheet

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    rows = [("b" * 60, "9.5 %", "1,200"), ("a", "10.5 %", "90"), ("c", "", "7")]
    plots = [(name, curves_figure({"x": [(1, 1.0), (2, 0.5)]}, name)) for name in ("one", "two", "three")]
    rendered = [np.random.default_rng(n).integers(0, 255, (3, 48, 48), dtype=np.uint8) for n in range(24)]
    sections = [
        Section("Result", table=Table(("name", "value", "count"), rows), figures=plots),
        Section("Wide", table=Table([f"column {n}" for n in range(12)], [[f"value{n}" * 3 for n in range(12)]] * 3)),
        Section("Rows", figures=[("s", contact_sheet(rendered, ["#1"] * 24, columns=6))]),
        Section("Free", figures=[("s", contact_sheet(rendered, ["a caption of several words"] * 24))]),
        Section("Command", command="lightning-clip classify " + "x" * 300),
    ]
    write_report(path, "A" * 80, "subtitle", sections)
    return path.as_uri()


@pytest.fixture
def opened(chromium: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    width, scheme = getattr(request, "param", (1200, "light"))
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(60_000)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.goto(address)
    yield page
    context.close()
    assert faults == []  # what the policy forbids would be told here, the page's own script among it


@pytest.mark.parametrize("opened", [(w, "light") for w in (320, 400, 768, 1200, 1900)], indirect=True)
def test_nothing_is_wider_than_the_window(opened: Any) -> None:
    assert opened.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_plots_fill_their_card_two_in_a_row(opened: Any) -> None:
    card = opened.locator("section").first.bounding_box()
    table, *plots = [part.bounding_box() for part in opened.locator("section").first.locator(".parts > *").all()]
    assert table["y"] == plots[0]["y"] and plots[1]["y"] == plots[2]["y"] > plots[0]["y"]
    assert all(0.44 * card["width"] < plot["width"] < 0.5 * card["width"] for plot in plots)
    assert card["width"] > 0.75 * 1200


@pytest.mark.parametrize("opened", [(400, "light")], indirect=True)
def test_plots_are_as_wide_as_a_phone(opened: Any) -> None:
    assert all(plot.bounding_box()["width"] > 330 for plot in opened.locator(".plot svg").all())


@pytest.mark.parametrize("opened", [(1200, "light"), (1200, "dark")], indirect=True)
def test_texts_are_told_from_the_ground(opened: Any, request: pytest.FixtureRequest) -> None:
    """Of the page and of its plots."""
    ground = opened.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    text = opened.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    light, dark = sorted((brightness(ground), brightness(text)), reverse=True)
    assert light > 200 and dark < 60
    assert (brightness(ground) > 200) == (request.node.callspec.params["opened"][1] == "light")


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) / 3


def test_a_click_sorts_and_the_next_turns_round(opened: Any) -> None:
    def column(number: int) -> list[str]:
        cells = opened.locator(f"section:first-of-type tbody td:nth-child({number})").all()
        return [cell.inner_text()[:6] for cell in cells]

    value = opened.locator("th button", has_text="value").first
    value.click()
    assert column(2) == ["10.5 %", "9.5 %", ""]  # as numbers; what is empty stays last
    value.click()
    assert column(2) == ["9.5 %", "10.5 %", ""]
    opened.locator("th button", has_text="count").click()
    assert column(3) == ["1,200", "90", "7"]
    opened.locator("th button", has_text="name").press("Enter")
    assert column(1) == ["a", "bbbbbb", "c"]
    assert opened.locator("th[aria-sort]").count() == 1
