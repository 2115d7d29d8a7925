"""A first look at pairs that nobody has described yet: columns, texts, classes and kinds of pictures."""

from __future__ import annotations

import contextlib
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.inspect import Inspection, inspect_pairs
from lightning_clip.data.picture_kind import PictureKind, picture_kind
from lightning_clip.data.sources import PairSource, TableSource, pair_sources, readable_captions
from lightning_clip.data.sources.columns import texts
from lightning_clip.data.sources.split_specs import with_part
from lightning_clip.planning.first_splits import Stages, stages_by_names, stages_of

__all__ = ["Look", "look_at"]

_PICTURES = 120  # that are decoded
_TEXTS = 2000  # that are looked at for script and words
_SIDES = re.compile(r"\b(left|right|links|rechts|gauche|droite)\b|[左右]", re.IGNORECASE)
_NO_TEXT = re.compile(r".*(image|file|path|url|doi|licen[cs]e|split|id|source)$|filename|.*_name$", re.IGNORECASE)
_ARCHIVES = (".tar", ".zip")


@dataclass(frozen=True)
class Look:
    """What was found.

    Attributes:
        stages: settings of training, validation and test.
        inspection: counts of the training pairs.
        kind: of most pictures.
        short_side: median of the shorter side in pixels.
        class_names: of labelled pictures.
        repeated: share of captions that repeat another.
        foreign: share of letters of other scripts than Latin.
        sides: share of captions that speak of left or right.
        captions: at most some thousand of them, for a vocabulary.
        other_texts: columns of texts that were not taken.
    """

    stages: Stages
    inspection: Inspection
    kind: PictureKind
    short_side: int
    class_names: list[str]
    repeated: float
    foreign: float
    sides: float
    captions: list[str]
    other_texts: list[str]

    @property
    def pairs(self) -> int:
        """Training pairs."""
        return self.inspection.pairs


def look_at(settings: Mapping[str, Any]) -> Look:
    """Opens a folder or table, finds its columns and parts, and looks at some of its pictures and texts.

    Args:
        settings: of the source, its "name" a path; what it says is kept.

    Raises:
        InputError: the source does not open, or holds neither texts nor classes.
    """
    with _in_silence():
        completed, others = _completed(dict(settings))
        stages = stages_of(completed)
    source = pair_sources.build(with_part(stages.train, "train"))  # says what is omitted, once
    if not len(source):
        raise InputError(f"{settings['name']!r} holds no pairs for training: give a folder or table with some")
    found = inspect_pairs(source, images=_PICTURES, shown=1)
    if not found.sizes:
        raise InputError(
            f"none of the pictures of {settings['name']!r} that were looked at can be used "
            f"({', '.join(found.broken) or 'there are none'}): see lightning-clip data verify"
        )
    if not found.captions and not source.class_names:
        raise InputError(f"{settings['name']!r} has neither texts nor class names: give --caption-column or --label-column")
    sides = np.repeat([min(size) for size in found.sizes], list(found.sizes.values()))
    captions = _texts_of(source)
    letters = Counter(_script(letter) for text in captions for letter in text if letter.isalpha())
    return Look(
        stages,
        found,
        _kind(source),
        int(np.median(sides)),
        list(map(str, source.class_names)),
        found.duplicate_captions / max(1, found.captions),
        letters["foreign"] / max(1, letters.total()),
        sum(bool(_SIDES.search(text)) for text in captions) / max(1, len(captions)),
        captions,
        others,
    )


@contextlib.contextmanager
def _in_silence() -> Iterator[None]:
    """Sources are opened several times over to find out about them, and would say each time what they omit."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _completed(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings with the table's archive of images and its columns, where they can be told; and other columns of texts."""
    try:
        source = pair_sources.build(settings)
    except InputError as error:
        if stages_by_names(settings) is not None:  # a folder that opens by its parts alone
            return settings, []
        if "caption_column" in settings or (table := _without_texts(settings)) is None:
            raise
        columns, label = _text_columns(table), settings.get("label_column") or settings.get("label_columns") or _label(table)
        if isinstance(label, str):
            columns.pop(label, None)  # class names of several words: prompts are made of them
        if not columns and not label:
            raise error
        settings["caption_column"] = max(columns, key=lambda column: columns[column]) if columns else None
        if not columns and isinstance(label, str):
            settings["label_column"] = label
        source = table
    if not isinstance(source, TableSource):
        return settings, []
    if "caption_column" not in settings and source.caption_column is not None:
        settings["caption_column"] = source.caption_column
    if "images" not in settings and (archive := _archive(source)) is not None:
        settings["images"] = archive
    chosen = settings.get("caption_column", source.caption_column)
    return settings, [column for column in _text_columns(source) if column != chosen and column not in (chosen or ())]


def _without_texts(settings: Mapping[str, Any]) -> TableSource | None:
    """A table, opened without its captions; None where the source is no table."""
    try:
        source = pair_sources.build({**settings, "caption_column": None})
    except (InputError, TypeError):
        return None
    return source if isinstance(source, TableSource) else None


def _text_columns(source: TableSource) -> dict[str, float]:
    """Columns of texts -> their mean length in letters."""
    rows = [source.rows[number] for number in range(min(200, len(source.rows)))]
    found = {}
    for column in source.rows.columns or rows[0]:
        if _NO_TEXT.fullmatch(column) or column == source.image_column:
            continue
        values = [row.get(column) for row in rows]
        if any(_is_no_text(value) for value in values):
            continue
        written = [text for value in values for text in texts(value, column)]
        words = [text for text in written if " " in text or any(_script(letter) == "foreign" for letter in text)]
        if len(words) > len(written) / 2 and len(set(written)) > len(written) / 20:
            found[column] = sum(map(len, written)) / len(written)
    return found


def _is_no_text(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(_is_no_text(part) for part in value)
    return isinstance(value, Mapping | bytes) or (isinstance(value, int | float) and value == value)


def _label(source: TableSource) -> str | None:
    return next((name for name in ("label", "class", "class_name", "category") if name in source.rows[0]), None)


def _archive(source: TableSource) -> str | None:
    """A tar or zip beside the table, where the images it names are no files."""
    column = source.image_column
    first = None if column is None else source.rows[0].get(column)
    if (
        not isinstance(first, str)
        or len(first) > 200
        or (source.images.path.is_dir() and (source.images.path / first).is_file())
    ):
        return None
    folder = Path(source.rows.files[0][0]).parent if source.rows.files else source.images.path
    found = sorted(path.name for path in folder.iterdir() if path.suffix in _ARCHIVES)
    return found[0] if found else None


def _texts_of(source: PairSource) -> list[str]:
    step = max(1, len(source) // _TEXTS)
    return [text for index in range(0, len(source), step) for text in readable_captions(source, index)]


def _script(letter: str) -> str:
    """Latin letters are those that CLIP's vocabulary has words of."""
    return "latin" if letter.isascii() or "LATIN" in unicodedata.name(letter, "") else "foreign"


def _kind(source: PairSource) -> PictureKind:
    """Of most pictures, with the least and largest value of all of them."""
    kinds = []
    for index in range(0, len(source), max(1, len(source) // 24)):
        try:
            image = source[index].image
            kinds.append(picture_kind(image) if isinstance(image, bytes) else PictureKind("colour"))
        except (OSError, ValueError, KeyError):
            continue
    if not kinds:
        return PictureKind("colour")
    (form, bands, eight), _ = Counter(kind[:3] for kind in kinds).most_common(1)[0]
    same = [kind for kind in kinds if kind[:3] == (form, bands, eight)]
    return PictureKind(form, bands, eight, min(kind.low for kind in same), max(kind.high for kind in same))
