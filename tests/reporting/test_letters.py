"""Letters of any script: an installed font that has them, or one warning that names the remedy."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from lightning_clip.reporting import letters
from lightning_clip.reporting.drawing import png
from lightning_clip.reporting.letters import families
from lightning_clip.reporting.plots import curves_figure, save_figure


def font(path: Path, text: str) -> Path:
    """A font in which each letter of the text is a square."""
    names = [".notdef", *(f"u{ord(letter):04X}" for letter in text)]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 700), (700, 700), (700, 0)):
        pen.lineTo(corner)
    pen.closePath()
    square = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(text, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, square))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, sTypoDescender=-200)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture(autouse=True)
def only_matplotlibs_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which no further font is installed."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: [])
    found = [letters._fallbacks, letters._list_new_fonts, letters._warn]
    for function in found:
        function.cache_clear()
    yield
    for function in found:
        function.cache_clear()


def test_latin_greek_and_arrows_need_no_other_font(caplog: pytest.LogCaptureFixture) -> None:
    assert families(["a red circle, große Straße", "image → text", "αβγ\n\t"]) == ["DejaVu Sans"] and not caplog.records


def test_no_font_is_one_warning_with_its_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")  # matplotlib's, one a letter
        for number in range(3):
            save_figure(curves_figure({"红色": [(1, 2.0)], "圆形": [(1, 1.0)]}, "形状"), tmp_path / f"{number}.png")
    (record,) = caplog.records
    assert "no installed font has CJK letters such as" in record.getMessage()
    assert "apt-get install fonts-noto-cjk" in record.getMessage()
    assert families(["हिन्दी"]) == ["DejaVu Sans"] and "fonts-noto-core" in caplog.records[-1].getMessage()


def test_fonts_that_have_the_letters_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that was installed after matplotlib made its list, too; several together where none has all."""
    paths = [str(font(tmp_path / "Hanzi.ttf", "红色")), str(font(tmp_path / "Hangul.ttf", "여"))]
    without = png(curves_figure({"a": [(1, 2.0)]}, "红色 여"))
    letters._list_new_fonts.cache_clear()
    letters._fallbacks.cache_clear()
    caplog.clear()
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda *_: paths)
    assert families(["a red 红", "여"]) == ["DejaVu Sans", "Hangul", "Hanzi"]
    assert png(curves_figure({"a": [(1, 2.0)]}, "红色 여")) != without and not caplog.records
