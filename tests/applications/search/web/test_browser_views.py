"""The page in a real browser: map, duplicates, keys, small screens, darkness, and what goes wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from applications.search.web.browser import Page, serving, until

from lightning_clip.applications.search import SearchIndex
from lightning_clip.core.locks import only_writer
from lightning_clip.model.predictor import Predictor

pytestmark = pytest.mark.slow


class TestMap:
    @pytest.fixture
    def mapped(self, page: Page) -> Page:
        page.click("nav >> text=Map")
        until(page, "document.getElementById('canvas').dataset.pictures === '50'")
        return page

    def pixels(self, page: Page) -> str:
        page.wait_for_timeout(300)
        found: str = page.evaluate("document.getElementById('canvas').toDataURL()")
        return found

    def zoom(self, page: Page) -> float:
        page.wait_for_timeout(150)
        return float(page.get_attribute("#canvas", "data-zoom"))

    def test_what_is_drawn(self, mapped: Page) -> None:
        assert mapped.inner_text("#map-status").startswith("50 pictures. Near each other is what the model finds similar")
        colours = mapped.evaluate(
            "() => { const c = document.getElementById('canvas');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; const s = new Set();"
            "for (let i = 0; i < d.length; i += 4) if (d[i + 3] === 255) s.add(d.slice(i, i + 3).join()); return s.size; }"
        )
        assert colours > 40

    def test_buttons_wheel_and_dragging(self, mapped: Page) -> None:
        first = self.pixels(mapped)
        mapped.click("#zoom-in")
        mapped.click("#zoom-in")
        assert self.zoom(mapped) == 2.25
        mapped.click("#zoom-out")
        assert self.zoom(mapped) == 1.5
        box = mapped.locator("#canvas").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mapped.mouse.move(x, y)
        mapped.mouse.wheel(0, -400)
        assert self.zoom(mapped) > 3
        mapped.click("#zoom-all")
        assert self.zoom(mapped) == 1
        mapped.mouse.move(x, y)
        mapped.mouse.down()
        mapped.mouse.move(x + 150, y + 80, steps=5)
        mapped.mouse.up()
        assert self.pixels(mapped) != first and not mapped.is_visible("#details")
        mapped.click("#zoom-all")
        mapped.mouse.move(x, box["y"] - 20)
        assert self.pixels(mapped) == first

    def test_pointing_and_opening(self, mapped: Page, many: Path, server: str) -> None:
        """At the place of a point that stands alone."""
        points = mapped.evaluate("fetch('/api/map').then(found => found.json())")["points"]
        number, x, y, *_ = max(
            points, key=lambda point: min(abs(point[1] - o[1]) + abs(point[2] - o[2]) for o in points if o is not point)
        )
        box = mapped.locator("#canvas").bounding_box()
        half = 0.46 * min(box["width"], box["height"])
        stretch = min(max(box["width"] / box["height"], 1), 1.9)
        place = box["x"] + box["width"] / 2 + x * half * stretch, box["y"] + box["height"] / 2 - y * half
        [entry] = SearchIndex(many).entries.get([number])
        mapped.mouse.move(*place)
        mapped.wait_for_selector("#hover:not([hidden])")
        assert mapped.inner_text("#hover") == entry.captions[0]
        mapped.mouse.click(*place)
        mapped.wait_for_selector("#details[open]")
        assert entry.place in mapped.inner_text("#details")

    def test_keys(self, mapped: Page) -> None:
        mapped.focus("#canvas")
        first = self.pixels(mapped)
        mapped.keyboard.press("+")
        assert self.zoom(mapped) == 1.5
        mapped.keyboard.press("-")
        mapped.keyboard.press("ArrowLeft")
        assert self.zoom(mapped) == 1 and self.pixels(mapped) != first
        mapped.keyboard.press("0")
        assert self.pixels(mapped) == first
        mapped.keyboard.press("Enter")
        mapped.wait_for_selector("#details[open]")


class TestDuplicates:
    def test_groups_and_slider(self, page: Page) -> None:
        page.click("nav >> text=Duplicates")
        page.wait_for_selector(".group")
        page.focus("#threshold")
        page.keyboard.press("End")
        until(page, "document.querySelectorAll('.group').length === 1")
        assert page.inner_text("#threshold-value") == "1.00"
        assert page.inner_text("#duplicates-status") == "1 group, 1 picture repeats another"
        assert page.locator(".group p").all_inner_texts() == ["a blue field", "blue once more"]
        page.keyboard.press("Home")
        until(page, "document.querySelectorAll('.group .card').length > 10")
        page.click(".group .open >> nth=1")
        assert page.is_visible("#details") and page.is_enabled("#previous")
        page.keyboard.press("Escape")
        page.click(".group .like >> nth=0")
        page.wait_for_selector("#parts li")
        assert "#search?like=" in page.url


class TestKeys:
    def test_all_of_them(self, page: Page) -> None:
        page.keyboard.press("?")
        assert page.is_visible("#keys") and "write a query" in page.inner_text("#keys")
        page.keyboard.press("Escape")
        for key, view in (("2", "labels"), ("3", "map"), ("4", "duplicates"), ("1", "search")):
            page.keyboard.press(key)
            page.wait_for_selector(f"#{view}:not([hidden])")
            assert page.get_attribute(f"nav [data-view={view}]", "aria-current") == "page"
        page.keyboard.press("3")
        page.wait_for_selector("#map:not([hidden])")
        page.keyboard.press("/")
        until(page, "document.activeElement.id === 'words'")
        page.keyboard.type("?/12m")  # letters of a query, not keys
        assert page.input_value("#words") == "?/12m" and not page.is_visible("#keys")

    def test_through_the_grid(self, page: Page) -> None:
        page.focus("#hits .open >> nth=0")
        title = "document.activeElement.title"
        columns = page.evaluate("getComputedStyle(document.getElementById('hits')).gridTemplateColumns.split(' ').length")
        for key, number in (("ArrowRight", 42), ("ArrowDown", 42 - columns), ("ArrowLeft", 43 - columns), ("ArrowUp", 43)):
            page.keyboard.press(key)
            assert page.evaluate(title) == f"field number {number}"
        page.keyboard.press("Enter")
        assert page.is_visible("#details")
        page.keyboard.press("m")
        page.wait_for_selector("#parts li")
        assert not page.is_visible("#details")
        until(page, "document.querySelector('#hits .card')")
        page.focus("#hits .open >> nth=0")
        before = page.inner_text("#parts")
        page.keyboard.press("m")
        until(page, f"document.getElementById('parts').innerText !== {before!r}")

    def test_everything_can_be_reached_by_tab(self, page: Page) -> None:
        reached = set()
        page.evaluate("document.activeElement.blur()")
        for _ in range(16):
            page.keyboard.press("Tab")
            reached.add(
                page.evaluate(
                    "document.activeElement.id || document.activeElement.className || document.activeElement.textContent"
                )
            )
        assert {
            "brand",
            "Search",
            "Map",
            "theme",
            "help",
            "words",
            "choose",
            "go",
            "without",
            "caption",
            "open",
            "like",
        } <= reached
        page.focus("#help")
        page.keyboard.press("Enter")
        assert page.is_visible("#keys")
        page.click("#keys [data-close]")
        assert not page.is_visible("#keys")


class TestScreens:
    @pytest.mark.parametrize("width", [320, 390, 768, 1920])
    def test_nothing_stands_out(self, width: int, page: Page) -> None:
        page.set_viewport_size({"width": width, "height": 800})
        for view in ("search?words=a+red+field&like=3", "labels?picture=3", "map", "duplicates"):
            page.goto(f"/#{view}")
            page.wait_for_selector(f"#{view.partition('?')[0]}:not([hidden])")
            page.wait_for_timeout(300)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, view
            assert all(link.is_visible() for link in page.locator("nav a").all())
        page.goto("/#search")
        page.click("#hits .open >> nth=0")
        box = page.locator("#details").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width
        small = page.locator("#hits .card").first.bounding_box()["width"]
        assert small >= 130

    def test_the_map_grows_with_the_window(self, page: Page) -> None:
        page.goto("/#map")
        until(page, "document.getElementById('canvas').dataset.visible === '50'")
        page.set_viewport_size({"width": 390, "height": 700})
        until(page, "document.getElementById('canvas').width < 390")
        assert page.get_attribute("#canvas", "data-visible") == "50"

    def test_dark_and_light(self, page: Page) -> None:
        ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
        assert page.evaluate(ground) > 200
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(ground) < 40
        page.click("#theme")
        assert page.evaluate(ground) > 200
        page.reload()
        page.wait_for_selector("#hits .card")
        assert page.evaluate(ground) > 200
        page.click("#theme")
        assert page.evaluate(ground) < 40


class TestWhatGoesWrong:
    def test_a_long_query(self, page: Page) -> None:
        page.fill("#words", "x" * 10_000)
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "The query has 10,000 characters, more than 2,000: shorten it."
        page.fill("#words", "")
        page.wait_for_selector("#error", state="hidden")

    def test_only_what_is_not_wanted(self, page: Page) -> None:
        page.fill("#without", "people")
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "The query is empty: give words, a picture, or both."

    def test_a_picture_that_is_not_there(self, page: Page) -> None:
        page.goto("/#search?like=999")
        page.wait_for_selector("#error:not([hidden])")
        assert "has no picture 999" in page.inner_text("#error")

    def test_a_server_that_ends_and_comes_again(self, chromium: Any, many: Path, predictor: Predictor) -> None:
        window = chromium.new_page()
        window.set_default_timeout(60_000)
        with serving(many, predictor) as address:
            window.goto(address)
            window.wait_for_selector("#hits .card")
        window.fill("#words", "a boat")
        window.wait_for_selector("#error:not([hidden])")
        assert window.inner_text("#error") == "The server does not answer. Is lightning-clip serve still running?"
        with serving(many, predictor, int(address.rpartition(":")[2])):
            window.wait_for_selector("#error", state="hidden")
            window.fill("#words", "a boat at sea")
            window.wait_for_selector("text=40 pictures, best first")
        window.close()


class TestAnIndexThatGrows:
    def test_progress(self, chromium: Any, index: Path, many: Path, predictor: Predictor, tmp_path: Path) -> None:
        shutil.copytree(index, tmp_path / "own.index")
        window = chromium.new_page()
        window.set_default_timeout(60_000)
        bar = "document.getElementById('building-bar')"
        with serving(tmp_path / "own.index", predictor) as address:
            with (
                only_writer(tmp_path / "own.index", "--output"),
                SearchIndex.opened_for_writing(tmp_path / "own.index", predictor, predictor) as writing,
            ):
                building = {"source": 1, "fingerprint": "f", "unit": 2, "pictures": 8}
                writing.entries.set_fact("building", building)
                window.goto(address)
                window.wait_for_selector("#building:not([hidden])")
                assert "The index is being written: 0 of 8 pictures" in window.inner_text("#building-text")
                [entry] = SearchIndex(many).entries.get([20])
                with writing.adding():
                    writing.entries.add(entry._replace(id=6, key="new", captions=("a new one",)), b"")
                    writing.vectors.append(SearchIndex(many).vectors_of([20]).astype("float16"))
                    writing.entries.finish_unit(1, "f", 0)
                until(window, f"{bar}.value === 2 && {bar}.max === 8")
                window.wait_for_selector("text=a new one")  # without a word of the user's; it has no thumbnail
                assert window.inner_text("#count") == "7 pictures"
            window.wait_for_selector("#building", state="hidden")
        window.close()

    def test_without_any_picture(self, chromium: Any, predictor: Predictor, tmp_path: Path) -> None:
        with SearchIndex.opened_for_writing(tmp_path / "empty.index", predictor, predictor):
            pass
        window = chromium.new_page()
        window.set_default_timeout(60_000)
        with serving(tmp_path / "empty.index", predictor) as address:
            window.goto(address)
            window.wait_for_selector("text=No picture yet")
            assert "lightning-clip index build" in window.inner_text("#hits")
            window.goto(f"{address}/#map")
            window.wait_for_selector("text=No picture yet: add some")
            window.goto(f"{address}/#duplicates")
            window.wait_for_selector("text=No picture is so like another")
            window.goto(f"{address}/#labels")
            window.click("#random")
            window.wait_for_selector("text=The collection has no picture yet.")
            window.goto(f"{address}/#search?words=a+boat")
            window.wait_for_selector("#hits >> text=No picture yet")
        window.close()
