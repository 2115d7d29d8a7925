"""Fonts for texts in any script: which installed ones have the letters, and one line where none has them."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

__all__ = ["OWN_FONT", "families", "literal"]

log = logging.getLogger(__name__)
OWN_FONT = "DejaVu Sans"  # comes with matplotlib
_EAST_ASIAN = frozenset({"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "FULLWIDTH"})
_REGULAR = 550  # weights from here on are bold


def families(texts: Iterable[str]) -> list[str]:
    """Matplotlib's own font and after it installed ones that have the letters it lacks; one warning a script that none has.

    Args:
        texts: that will be drawn.

    Examples:
        >>> families(["a red circle"])
        ['DejaVu Sans']
    """
    letters = {letter for text in texts for letter in text if letter.isprintable() and not letter.isspace()}
    lacking = frozenset(letter for letter in letters if not _has(_own_path(), ord(letter)))
    if not lacking:
        return [OWN_FONT]
    found, missing = _fallbacks(lacking)
    for script, letter in sorted({_script(letter): letter for letter in sorted(missing)}.items()):
        _warn(script, letter)
    return [OWN_FONT, *found]


def literal(text: str) -> str:
    r"""A text of others for matplotlib, which would take what stands between two dollars as a formula.

    Args:
        text: such as a caption.

    Examples:
        >>> literal("from $5 to $9")
        'from \\$5 to \\$9'
    """
    return text.replace("$", r"\$")


@lru_cache(maxsize=512)
def _fallbacks(lacking: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Fonts which together have as many of the letters as the installed ones do, and the letters that are left."""
    found: list[str] = []
    left = set(lacking)
    for newly in (False, True):
        if newly:  # matplotlib keeps a list of fonts, in which one that was installed since is not
            _list_new_fonts()
        for font in sorted(_regular_fonts(), key=lambda font: ("CJK SC" not in font.name, font.name)):
            if left and font.name not in found and (has := {letter for letter in left if _has(font.fname, ord(letter))}):
                found.append(font.name)
                left -= has
        if not left:
            break
    return tuple(found), frozenset(left)


def _regular_fonts() -> list[font_manager.FontEntry]:
    return [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal"
        and not font.name.startswith("Last Resort")  # its boxes stand for every letter
        and not (isinstance(font.weight, int) and font.weight > _REGULAR)
    ]


@cache
def _list_new_fonts() -> None:
    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            try:
                font_manager.fontManager.addfont(path)
            except (OSError, RuntimeError, ValueError):  # pictures in place of outlines, or a damaged file
                continue


@cache
def _own_path() -> str:
    return str(font_manager.findfont(OWN_FONT))


@lru_cache(maxsize=65536)
def _has(path: str, code: int) -> bool:
    font = _face(path)
    return font is not None and font.get_char_index(code) != 0


@lru_cache(maxsize=64)  # each holds its file open
def _face(path: str) -> FT2Font | None:
    try:
        return FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "UNKNOWN").split()[0]


@cache  # each script once
def _warn(script: str, letter: str) -> None:
    package = "fonts-noto-cjk" if script in _EAST_ASIAN else "fonts-noto-core"
    log.warning(
        "no installed font has %s letters such as %r: PNG figures show boxes in their place, the HTML report has them from "
        "the browser's fonts. Install a font, for example: apt-get install %s",
        script.capitalize() if script not in ("CJK",) else script,
        letter,
        package,
    )
