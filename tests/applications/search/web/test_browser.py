"""The page in a real browser: every control is used, as people use it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from applications.search.web.browser import Page, dropped, pasted, until
from applications.search.web.conftest import SCRIPT

from lightning_clip.applications.search import Query, SearchIndex
from lightning_clip.model.predictor import Predictor

pytestmark = pytest.mark.slow


def captions(page: Page) -> list[str]:
    found: list[str] = page.locator("#hits .card p").all_inner_texts()
    return found


def settled(page: Page) -> list[str]:
    """The captions in the grid, once the query that was typed is answered."""
    page.wait_for_timeout(400)  # longer than the page waits for further letters
    until(page, "!document.querySelector('.busy')")
    return captions(page)


def expected(many: Path, query: Any, most: int = 40) -> list[str]:
    return [" ".join(hit.entry.captions[0].split()) for hit in SearchIndex(many).search(query, most)]


class TestSearching:
    def test_the_newest_pictures(self, page: Page) -> None:
        assert page.inner_text("#name") == "many.index" and page.inner_text("#count") == "50 pictures"
        assert captions(page)[:2] == ["field number 43", "field number 42"] and len(captions(page)) == 40
        page.click("#more")
        until(page, "document.querySelectorAll('#hits .card').length === 49")  # one stands there twice
        assert not page.is_visible("#more")
        page.locator("#hits img").last.scroll_into_view_if_needed()
        until(page, "[...document.querySelectorAll('#hits img')].pop().naturalWidth === 48")

    def test_typing(self, page: Page, many: Path, predictor: Predictor) -> None:
        page.locator("#words").press_sequentially("a red field", delay=20)
        assert settled(page) == expected(many, Query(texts=["a red field"]).vector(predictor))
        assert page.url.endswith("#search?words=a+red+field") and "40 pictures, best first" in page.inner_text("#status")
        page.reload()
        assert settled(page) == expected(many, Query(texts=["a red field"]).vector(predictor))
        assert page.input_value("#words") == "a red field"

    def test_minus_words_and_several_wishes(self, page: Page, many: Path, predictor: Predictor) -> None:
        page.fill("#words", "a field; something green")
        page.fill("#without", "red; a boat")
        page.click("#go")
        query = Query(texts=["a field", "something green"], without=["red", "a boat"])
        assert settled(page) == expected(many, query.vector(predictor))
        page.fill("#without", "")
        assert settled(page) == expected(many, Query(texts=query.texts).vector(predictor))

    def test_words_of_captions(self, page: Page) -> None:
        page.fill("#caption", "number 1*")
        assert sorted(settled(page)) == sorted(f"field number {number}" for number in (1, *range(10, 20)))
        page.fill("#caption", "submarine")
        settled(page)
        assert "No picture found" in page.inner_text("#hits") and "Try other words" in page.inner_text("#hits")

    def test_back_and_brand(self, page: Page) -> None:
        page.fill("#words", "one")
        page.press("#words", "Enter")
        first = settled(page)
        page.click("#hits .like >> nth=3")
        assert settled(page) != first
        page.go_back()
        assert settled(page) == first and page.input_value("#words") == "one" and page.locator("#parts li").count() == 0
        page.click(".brand")
        assert settled(page)[0] == "field number 43" and page.input_value("#words") == ""

    def test_more_like_this(self, page: Page, many: Path, predictor: Predictor) -> None:
        page.click("#hits .card:nth-child(2) .like")
        stored = SearchIndex(many)
        number = stored.words("number 42")[0].entry.id
        like = expected(many, stored.vectors_of([number])[0], 41)
        assert settled(page) == [text for text in like if text != "field number 42"]
        assert page.inner_text("#parts li").startswith("like field number 42")
        page.click("#parts button")
        assert settled(page)[0] == "field number 43"


class TestPicturesFromOutside:
    @pytest.mark.parametrize("way", ["chosen", "dropped", "pasted"])
    def test_found(self, way: str, page: Page, pictures: Path) -> None:
        path = pictures / "green.png"
        if way == "chosen":
            page.set_input_files("#choose", path)
        else:
            {"dropped": dropped, "pasted": pasted}[way](page, path)
        page.wait_for_selector("#parts li")
        assert settled(page)[0] == "a green field" and page.inner_text("#parts li").startswith("like green.png")
        assert page.inner_text("#hits .score >> nth=0") == "1.000"
        page.fill("#words", "a boat")
        assert page.inner_text("#hits .score >> nth=0") == "1.000" and settled(page)
        assert page.inner_text("#hits .score >> nth=0") != "1.000"  # both count
        page.click("#parts button")
        settled(page)
        assert page.locator("#parts li").count() == 0

    def test_no_picture(self, page: Page, pictures: Path) -> None:
        dropped(page, pictures / "green.txt")
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error").startswith("This is no picture that can be read (not an image): give a JPEG")
        page.fill("#words", "a boat")
        settled(page)
        assert not page.is_visible("#error")

    def test_too_large(self, page: Page, tmp_path: Path) -> None:
        (tmp_path / "large.png").write_bytes(b"0" * 1_400_000)
        page.set_input_files("#choose", tmp_path / "large.png")
        page.wait_for_selector("#error:not([hidden])")
        assert page.inner_text("#error") == "The picture has 1.4 MB, more than 0.3 MB: make it smaller."


class TestDetails:
    def test_a_picture(self, page: Page, many: Path) -> None:
        page.click("#hits .open >> nth=1")
        assert page.is_visible("#details") and page.is_enabled("#previous")
        entry = SearchIndex(many).words("number 42")[0].entry
        facts = page.inner_text("#details")
        assert "field number 42" in facts and entry.place in facts and "48 × 40" in facts
        page.click("#details-copy")
        until(page, "document.getElementById('details-copy').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()") == entry.place
        page.click("#previous")
        assert "field number 43" in page.inner_text("#details") and page.is_disabled("#previous")
        page.click("#next")
        page.keyboard.press("ArrowRight")
        assert "field number 41" in page.inner_text("#details")
        page.click("#details [data-close]")
        assert not page.is_visible("#details")
        page.click("#hits .open >> nth=0")
        page.keyboard.press("Escape")
        assert not page.is_visible("#details")

    def test_more_like_it(self, page: Page) -> None:
        page.click("#hits .open >> nth=0")
        page.click("#details-like")
        assert not page.is_visible("#details") and "field number 43" not in settled(page)
        assert page.inner_text("#parts li").startswith("like field number 43")

    def test_where_a_word_is_seen(self, page: Page) -> None:
        page.fill("#words", "a red field; a boat")
        settled(page)
        page.click("#hits .open >> nth=0")
        assert page.input_value("#where-text") == "a red field"
        page.click("#where button")
        page.wait_for_selector("#details-picture img[alt='where a red field is seen']")
        until(page, "document.querySelector('#details-picture img').naturalWidth === 448")
        page.fill("#where-text", "x" * 2001)
        page.press("#where-text", "Enter")
        page.wait_for_selector("#details-captions >> text=Text has 2,001 characters, more than 2,000: shorten it.")
        page.fill("#where-text", "")
        page.click("#where button")
        until(page, "document.querySelector('#details-picture img').naturalWidth === 48")

    def test_captions_are_text(self, page: Page) -> None:
        page.fill("#caption", "bold")
        assert settled(page) == [SCRIPT]
        page.click("#hits .open")
        assert page.inner_text("#details-captions") == SCRIPT
        assert page.title() == "many.index" and page.locator("#details-captions img, #hits b").count() == 0


class TestLabels:
    def shares(self, page: Page) -> dict[str, float]:
        page.wait_for_timeout(400)
        until(page, "document.querySelector('#bars li')")
        texts = page.locator("#bars li").all_inner_texts()
        found = {text.split("\n")[0]: float(re.search(r"([\d.]+) %", text)[1]) for text in texts}  # type: ignore[index]
        assert list(found.values()) == sorted(found.values(), reverse=True)
        return found

    def test_bars_while_labels_are_typed(self, page: Page, pictures: Path, predictor: Predictor) -> None:
        page.click("nav >> text=Labels")
        assert "Bars appear here once there is a picture" in page.inner_text("#labels-status")
        page.set_input_files("#choose-subject", pictures / "red.png")
        page.fill("#names", "red, green")
        page.fill("#prompt", "{}")
        assert set(self.shares(page)) == {"red", "green"}
        page.locator("#names").press_sequentially("\na boat", delay=10)
        names = ["red", "green", "a boat"]
        shares = predictor.similarity(names, ["{}"])([pictures / "red.png"]).softmax(dim=-1)[0]
        found = self.shares(page)
        assert [found[name] for name in names] == pytest.approx((100 * shares).tolist(), abs=0.2)
        width = page.evaluate("getComputedStyle(document.querySelector('#bars i'), '::before').width")
        whole = page.evaluate("document.querySelector('#bars i').clientWidth")
        page.wait_for_timeout(400)
        assert float(width.removesuffix("px")) == pytest.approx(whole * max(found.values()) / 100, abs=whole / 20)

    def test_mistakes_stand_beside_them(self, page: Page, pictures: Path) -> None:
        page.goto("/#labels")
        dropped(page, pictures / "blue.png")
        page.fill("#names", "alone")
        page.wait_for_selector("#labels-status.bad >> text=Labels name 1: give at least two")
        page.fill("#names", "one, two")
        page.fill("#prompt", "no place")
        page.wait_for_selector("#labels-status.bad >> text=no place")
        page.fill("#prompt", "a photo of {}")
        assert set(self.shares(page)) == {"one", "two"} and page.inner_text("#labels-status") == ""

    def test_pictures_of_the_collection(self, page: Page) -> None:
        page.click("#hits .open >> nth=0")
        page.click("#details-labels")
        assert len(self.shares(page)) == 5 and page.get_attribute("#subject img", "alt") == "field number 43"
        for _ in range(20):
            page.click("#random")
            page.wait_for_timeout(100)
            if page.get_attribute("#subject img", "alt") != "field number 43":
                break
        assert page.get_attribute("#subject img", "alt") != "field number 43"
