"""Words drawn as pictures: fonts, lines that fit, sentences on a page, and a word on a board that is pasted onto a picture."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.settings import in_range

__all__ = ["Box", "Lettering", "broken_lines", "colour_of", "open_font", "pasted", "text_picture"]

_SMALLEST = 6  # pixels: below, letters are not told apart
_LARGEST = 1 / 6  # of a page's side, where the size is chosen
_SPACING = 1.25  # height of a line, in font sizes
_MARGIN = 0.06  # of a page's side
_IDEOGRAPHS = 0x2E80  # from here on characters need no space between words
_PLACES = ("bottom", "top", "centre", "random")
Font = ImageFont.FreeTypeFont


class Box(NamedTuple):
    """A rectangle of a picture in pixels: columns left to right - 1, rows top to bottom - 1."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Lettering:
    """How a word is pasted.

    Args:
        place: "bottom", "top", "centre" or "random", in the square in the middle of a picture, which models see.
        share: size of the letters, in sides of that square, in (0, 0.5]; smaller where the word would not fit.
        colour: of the letters, as PIL names colours.
        board: colour of the board behind them; "none" for letters on the picture itself.
        font: a .ttf or .otf file; None takes the font that PIL ships.

    Raises:
        InputError: an unknown place or colour, a share out of range, or a file that is no font.
    """

    place: str = "bottom"
    share: float = 0.2
    colour: str = "black"
    board: str = "white"
    font: str | None = None

    def __post_init__(self) -> None:
        if self.place not in _PLACES:
            raise InputError(f"lettering's place {self.place!r} is unknown: {nearest(self.place, _PLACES)}")
        in_range("lettering's share", self.share, 0, 0.5, open_low=True)
        colour_of(self.colour)
        if self.board != "none":
            colour_of(self.board)
        open_font(self.font, _SMALLEST)


def colour_of(name: str) -> tuple[int, int, int]:
    """A colour as PIL names it ("navy", "#aa2211", "rgb(1, 2, 3)") as red, green and blue.

    Raises:
        InputError: no such colour.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise InputError(f"colour {name!r} is unknown: give a name such as navy, or #rrggbb") from error


def open_font(font: str | None, size: float) -> Font:
    """A font of a size.

    Args:
        font: a .ttf or .otf file; None for the one that PIL ships.
        size: in pixels, above 0.

    Raises:
        InputError: a missing file, or one that is no font.
    """
    return _opened(None if font is None else str(existing_path(font, "font")), size)


@lru_cache(maxsize=256)
def _opened(path: str | None, size: float) -> Font:
    try:
        found = ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)
    except OSError as error:
        where = "the font that PIL ships" if path is None else f"font {Path(str(path)).name!r}"
        raise InputError(f"{where} cannot be opened ({error}): give a .ttf or .otf file") from error
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise InputError("this Pillow was built without FreeType, which letters of any size need: install Pillow from PyPI")
    return found


def broken_lines(text: str, font: Font, width: float) -> list[str] | None:
    r"""A text in lines no wider than `width` pixels, broken at spaces and where the text has line breaks; None where a word is
    wider than that.

    Args:
        text: any; scripts without spaces are broken between characters.
        font: it is drawn in.
        width: of a line.

    Examples:
        >>> broken_lines("a picture\nof a dog", open_font(None, 10), 400)
        ['a picture', 'of a dog']
    """
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split():
            joined = f"{line} {word}" if line else word
            if font.getlength(joined) <= width:
                line = joined
                continue
            lines += [line] if line else []
            *full, line = _cut(word, font, width) or [""]
            if not line:
                return None
            lines += full
        lines.append(line)
    return lines


def _cut(word: str, font: Font, width: float) -> list[str]:
    """A word in pieces that fit: whole, or by character in scripts without spaces; empty where it does not fit."""
    if font.getlength(word) <= width:
        return [word]
    if not all(ord(letter) >= _IDEOGRAPHS for letter in word) or max(map(font.getlength, word)) > width:
        return []
    pieces = [""]
    for letter in word:
        if font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def text_picture(
    text: str,
    image_size: int,
    *,
    font: str | None = None,
    font_size: float | None = None,
    colour: str = "black",
    background: str = "white",
) -> Image.Image:
    """A text on a square page, its lines broken to fit, in the middle.

    Args:
        text: a word or sentences.
        image_size: side in pixels, at least 8.
        font: as for `open_font`.
        font_size: in pixels; None takes the largest at which the text fits, up to a sixth of the side.
        colour: of the letters.
        background: of the page.

    Raises:
        InputError: an empty text, a word longer than the page, a text that does not fit, no font, or no colour.

    Examples:
        >>> text_picture("a gripping, smart film", 64).size
        (64, 64)
    """
    in_range("image_size", image_size, 8, whole=True)
    if not text.strip():
        raise InputError("a text to draw is empty: give at least one word")
    if font_size is not None:
        in_range("font_size", font_size, _SMALLEST)
    room = image_size * (1 - 2 * _MARGIN)
    largest = max(_SMALLEST, round(image_size * _LARGEST))
    for size in range(largest, _SMALLEST - 1, -1) if font_size is None else [font_size]:
        opened = open_font(font, size)
        lines = broken_lines(text, opened, room)
        if lines is not None and len(lines) * size * _SPACING <= room:
            return _drawn(lines, opened, image_size, colour_of(colour), colour_of(background))
    if lines is None:
        longest = max(text.split(), key=opened.getlength)
        raise InputError(
            f"word {longest!r} is longer than a picture of {image_size} pixels at font size {opened.size:g}: take a larger "
            "image_size, or a smaller font_size"
        )
    raise InputError(
        f"a text of {len(text)} characters does not fit into a picture of {image_size} pixels at font size {opened.size:g}: "
        "take a larger image_size, or a smaller font_size"
    )


def _drawn(lines: list[str], font: Font, side: int, colour: tuple[int, ...], background: tuple[int, ...]) -> Image.Image:
    page = Image.new("RGB", (side, side), background)
    draw, height = ImageDraw.Draw(page), font.size * _SPACING
    top = (side - len(lines) * height) / 2
    for number, line in enumerate(lines):
        draw.text((side / 2, top + (number + 0.5) * height), line, fill=colour, font=font, anchor="mm")
    return page


def pasted(picture: Tensor, word: str, lettering: Lettering, rng: random.Random | None = None) -> tuple[Tensor, Box]:
    """A picture with a word on a board.

    Args:
        picture: uint8 (3, H, W).
        word: one line; "" pastes an empty board as large as one of five letters.
        lettering: how.
        rng: of random places; None for always the same.

    Returns:
        uint8 (3, H, W), and where the board is, or the letters where there is none.

    Raises:
        InputError: a word longer than the picture, even at the smallest letters.

    Examples:
        >>> import torch
        >>> picture, box = pasted(torch.zeros(3, 64, 64, dtype=torch.uint8), "cat", Lettering())
        >>> picture.shape, box.top >= 32, int(picture[:, box.top, box.left].sum())
        (torch.Size([3, 64, 64]), True, 765)
    """
    height, width = picture.shape[-2:]
    side = min(height, width)
    font, (across, down) = _fitting(word or "empty", lettering, side)
    left, top = (width - side) // 2, (height - side) // 2  # of the square in the middle
    left, top = left + (side - across) // 2, top + _row(lettering.place, side - down)
    if lettering.place == "random":
        rng = rng or random.Random(0)
        left, top = (start + rng.randint(0, room) for start, room in
                     (((width - side) // 2, side - across), ((height - side) // 2, side - down)))  # fmt: skip
    box = Box(left, top, left + across, top + down)
    canvas = to_pil_image(picture)
    draw = ImageDraw.Draw(canvas)
    if lettering.board != "none":
        draw.rectangle((box.left, box.top, box.right - 1, box.bottom - 1), fill=colour_of(lettering.board))
    middle = (left + across / 2, top + down / 2)
    draw.text(middle, word, fill=colour_of(lettering.colour), font=font, anchor="mm")
    return pil_to_tensor(canvas), box


def _row(place: str, room: int) -> int:
    return {"top": 0, "centre": room // 2}.get(place, room)


@lru_cache(maxsize=4096)
def _fitting(word: str, lettering: Lettering, side: int) -> tuple[Font, tuple[int, int]]:
    """The largest font up to the one asked for at which a word fits, and the size of its board in pixels."""
    for size in range(max(_SMALLEST, round(lettering.share * side)), _SMALLEST - 1, -1):
        font = open_font(lettering.font, size)
        across, down = round(font.getlength(word) + 0.4 * size), round(1.3 * size)
        if across <= side and down <= side:
            return font, (across, down)
    raise InputError(
        f"word {word!r} is longer than a picture of {side} pixels, even in letters of {_SMALLEST} pixels: take a shorter "
        "word, or larger pictures"
    )
