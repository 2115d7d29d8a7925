"""Sets that ask for the right one of two captions: Winoground, SugarCrepe and ARO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.decoding import decode
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.foldered import first_folder
from lightning_clip.prompts.sets.known import register

__all__ = ["ChoicePictures", "ChoiceRow"]

_SUGARCREPE = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")


@dataclass(frozen=True)
class ChoiceRow:
    """A picture, or a box of it, with a right caption and a wrong one.

    Args:
        picture: file.
        right: caption.
        wrong: caption.
        label: class of the question.
        box: left, top, width and height in pixels; None for the whole picture.
    """

    picture: Path
    right: str
    wrong: str
    label: int
    box: tuple[int, int, int, int] | None = None


class ChoicePictures(PairSource):
    """Pictures with two captions each, of which the first is right: what the protocols `choices` and `pairs` ask about.

    Args:
        rows: one a picture; for `pairs`, two and two belong together, the wrong caption being the other's right one.
        class_names: of the questions.
    """

    def __init__(self, rows: Sequence[ChoiceRow], class_names: Sequence[str]) -> None:
        self._rows, self.class_names = list(rows), list(class_names)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        row = self._rows[index]
        image: Any = row.picture.read_bytes()
        if row.box is not None:
            left, top, width, height = row.box
            image = decode(image)[:, top : top + height, left : left + width].contiguous()  # (3, H, W) -> (3, h, w)
        choices = {"choices": [row.right, row.wrong], "answer": 0}
        return Pair(image, (row.right,), f"{row.picture}#{index}", row.label, metadata=choices)

    def label(self, index: int) -> int:
        """The class of a question."""
        return self._rows[index].label

    def captions(self, index: int) -> tuple[str, ...]:
        """The right caption."""
        return (self._rows[index].right,)


def _winoground(place: Path) -> EvaluationSet:
    """examples.jsonl and images/*.png, as facebook/winoground has them (data/ may lie between)."""
    folder = first_folder(place, "images", "data/images")
    examples = _content(folder.parent / "examples.jsonl", lines=True)
    tags = sorted({row["tag"] for row in examples})
    rows = []
    for row in examples:
        for own, other in ((0, 1), (1, 0)):
            picture = folder / f"{row[f'image_{own}']}.png"
            rows.append(ChoiceRow(picture, row[f"caption_{own}"], row[f"caption_{other}"], tags.index(row["tag"])))
    return _asked(rows, tags)


def _sugarcrepe(place: Path) -> EvaluationSet:
    """add_att.json and its like, with COCO's val2017/ beside or in coco/."""
    kinds = [kind for kind in _SUGARCREPE if (place / f"{kind}.json").is_file()]
    if not kinds:
        raise InputError(f"{str(place)!r} has none of {', '.join(f'{kind}.json' for kind in _SUGARCREPE)}: copy them there")
    pictures = first_folder(place, "val2017", "../coco/val2017", "../val2017")
    rows = []
    for number, kind in enumerate(kinds):
        for row in _content(place / f"{kind}.json").values():
            rows.append(ChoiceRow(pictures / row["filename"], row["caption"], row["negative_caption"], number))
    return _asked(rows, kinds)


def _aro(kind: str, place: Path) -> EvaluationSet:
    """visual_genome_KIND.json and images/*.jpg, each question about a box of its picture."""
    pictures, rows = first_folder(place, "images"), _content(place / f"visual_genome_{kind}.json")
    named = [row["relation_name"] if kind == "relation" else "_".join(row["attributes"]) for row in rows]
    classes = sorted(set(named))
    places = {name: number for number, name in enumerate(classes)}
    return _asked([_aro_row(pictures, row, places[name]) for row, name in zip(rows, named, strict=True)], classes)


def _aro_row(pictures: Path, row: Mapping[str, Any], label: int) -> ChoiceRow:
    box = tuple(int(row[f"bbox_{side}"]) for side in "xywh")
    picture = pictures / Path(row["image_path"]).name
    return ChoiceRow(picture, row["true_caption"], row["false_caption"], label, box)  # type: ignore[arg-type]


def _asked(rows: Sequence[ChoiceRow], classes: Sequence[str]) -> EvaluationSet:
    return EvaluationSet(ChoicePictures(rows, classes), list(classes), ["{}"])


def _content(path: Path, lines: bool = False) -> Any:
    try:
        text = path.read_text("utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()] if lines else json.loads(text)
    except (OSError, ValueError) as error:
        raise InputError(f"{str(path)!r} cannot be read as JSON ({error}): copy it from the set's authors") from error


register("winoground", _winoground)
register("sugarcrepe", _sugarcrepe)
for _kind in ("relation", "attribution"):
    register(f"aro_{_kind}", partial(_aro, _kind))
