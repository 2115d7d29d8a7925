"""Words and sentences drawn as pictures, as the Rendered SST2 set of CLIP's authors has film reviews."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchvision.transforms.v2.functional import pil_to_tensor

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.lettering import colour_of, open_font, text_picture
from lightning_clip.data.sources.base import PairSource, pair_sources
from lightning_clip.data.sources.tables import TableSource

__all__ = ["RenderedText"]

_FILES = {"train": ("train",), "val": ("dev", "val"), "test": ("test",)}
_ENDINGS = (".tsv", ".csv", ".jsonl", ".parquet")


@pair_sources.register("rendered_text")
class RenderedText(PairSource):
    """Texts drawn on square pages, their lines broken to fit.

    Words of a list are classes: the label of a picture is the place of its word. Rows of a table have the class that their
    label column names, such as SST-2's sentences, drawn black on white on 448 pixels in CLIP's Rendered SST2.

    Args:
        texts: words or sentences; or a table of them (tsv, csv, jsonl, parquet); or a folder with the tables of the GLUE
            layout: train.tsv, dev.tsv, test.tsv.
        text_column: of a table.
        label_column: of a table; None for texts without classes.
        split: which table of a folder: "train", "val" (dev.tsv) or "test".
        size: number of pictures; words of a list come by turns. None for each text once.
        image_size: side in pixels.
        font: a .ttf or .otf file, or several, by turns; None takes the font that PIL ships.
        font_size: in pixels; None takes the largest at which a text fits, up to a sixth of the side.
        colours: of the letters, one drawn for each picture.
        backgrounds: of the page, likewise; never that of the letters.
        captions: with {} for the text, all of them captions of a picture.
        seed: of what is drawn; picture i is a function of (seed, i).

    Raises:
        InputError: no texts, a missing table or column, a file that is no font, an unknown colour; when a picture is drawn: a
            word longer than the page.

    Examples:
        >>> signs = RenderedText(["cat", "dog", "bird"], image_size=64, captions=["the word {}"])
        >>> len(signs), signs[1].label, signs[1].captions, signs[1].image.shape
        (3, 1, ('the word dog',), torch.Size([3, 64, 64]))
    """

    def __init__(
        self,
        texts: Any,
        text_column: str = "sentence",
        *,
        label_column: str | None = None,
        split: str = "test",
        size: int | None = None,
        image_size: int = 224,
        font: Any = None,
        font_size: float | None = None,
        colours: Sequence[str] = ("black",),
        backgrounds: Sequence[str] = ("white",),
        captions: Sequence[str] = ("{}",),
        seed: int = 0,
    ) -> None:
        in_range("rendered_text image_size", image_size, 8, whole=True)
        self.texts, self.image_size, self.font_size, self.seed, self.templates = texts, image_size, font_size, seed, captions
        self.fonts = [font] if font is None or isinstance(font, str) else list(font)
        self.colours, self.backgrounds = list(colours), list(backgrounds)
        for path in self.fonts:
            open_font(path, font_size or 12)
        for name in (*self.colours, *self.backgrounds):
            colour_of(name)
        if not any(one != other for one in self.colours for other in self.backgrounds):
            raise InputError(
                f"colours and backgrounds are all {self.colours[0]!r}: letters would not be seen, give another colour"
            )
        self._table: PairSource | None = None
        if isinstance(texts, str):
            self._table = TableSource(
                str(_table_of(texts, split)), image_column=None, caption_column=text_column, label_column=label_column
            )
            self.class_names = self._table.class_names
        else:
            self._words = _words_of(texts)
            self.class_names = self._words
        self.size = size or self._count
        in_range("rendered_text size", self.size, 1, whole=True)

    @property
    def _count(self) -> int:
        return len(self._words) if self._table is None else len(self._table)

    def __len__(self) -> int:
        return self.size

    def text(self, index: int) -> str:
        """What is written on a picture."""
        place = index % self._count
        return self._words[place] if self._table is None else " ".join(self._table.captions(place)[:1])

    def captions(self, index: int) -> tuple[str, ...]:
        """The text of a picture, in the templates of captions."""
        text = self.text(index)
        return tuple(template.replace("{}", text) for template in self.templates)

    def label(self, index: int) -> int | None:
        """The place of the word, or the class of the row."""
        place = index % self._count
        return place if self._table is None else self._table.label(place)

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < self.size:
            raise IndexError(index)
        rng = random.Random(f"{self.seed} {index}")
        colour, background = rng.choice(_pairs(self.colours, self.backgrounds))
        picture = text_picture(
            self.text(index),
            self.image_size,
            font=rng.choice(self.fonts),
            font_size=self.font_size,
            colour=colour,
            background=background,
        )
        return Pair(pil_to_tensor(picture), self.captions(index), key=f"text/{index:08d}", label=self.label(index))


def _pairs(colours: list[str], backgrounds: list[str]) -> list[tuple[str, str]]:
    return [(one, other) for one in colours for other in backgrounds if one != other]


def _words_of(texts: Any) -> list[str]:
    words = list(texts)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise InputError(f"rendered_text texts {texts!r} must be words or sentences: give at least one, and none that is empty")
    if len(set(words)) < len(words):
        double = next(word for word in words if words.count(word) > 1)
        raise InputError(f"rendered_text texts has {double!r} twice: each is a class of its own, keep one")
    return words


def _table_of(path: str, split: str) -> Path:
    """The table itself, or that of a split in a folder."""
    found = existing_path(path, "table of texts")
    if not found.is_dir():
        return found
    if split not in _FILES:
        raise InputError(f"rendered_text split {split!r} must be one of {', '.join(_FILES)}")
    tried = [found / f"{stem}{ending}" for stem in _FILES[split] for ending in _ENDINGS]
    table = next((place for place in tried if place.is_file()), None)
    if table is None:
        raise InputError(f"folder {path!r} has no table of split {split!r}: put {tried[0].name} there, or name a table")
    return table
