"""Pascal VOC 2007 as a set with several classes an image, some of which may be unsure."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.foldered import first_folder
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.paper_words import paper_class_names
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__ = ["VocClasses"]


class VocClasses(PairSource):
    """Images of VOC's classification task: ImageSets/Main/CLASS_SPLIT.txt says 1 (there), -1 (not there) or 0 (unsure).

    A pair's metadata has "labels", the classes that are there, and "unsure", those of which only difficult examples are, which
    the authors' figures leave out.

    Args:
        path: VOCdevkit/VOC2007.
        split: "train", "val", "trainval" or "test".

    Raises:
        InputError: no list of the split, or lists that do not fit each other.
    """

    def __init__(self, path: Path, split: str = "test") -> None:
        self.class_names = [str(name) for name in paper_class_names("voc2007")]
        lists = first_folder(path, "ImageSets/Main")
        self._folder = first_folder(path, "JPEGImages")
        marks = [_marks(lists / f"{name}_{split}.txt") for name in self.class_names]
        if not marks[0] or any(list(mark) != list(marks[0]) for mark in marks):
            raise InputError(f"lists of {split!r} in {str(lists)!r} name different images: unpack VOC 2007 again")
        self._images = [(image, [mark[image] for mark in marks]) for image in marks[0]]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Pair:
        image, marks = self._images[index]
        where = {name: [c for c, mark in enumerate(marks) if mark == value] for name, value in (("labels", 1), ("unsure", 0))}
        return Pair((self._folder / f"{image}.jpg").read_bytes(), (), image, metadata=where)

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


def _marks(path: Path) -> dict[str, int]:
    """Image -> 1, 0 or -1, of the lines of a list."""
    try:
        rows = [line.split() for line in path.read_text("utf-8").splitlines() if line.strip()]
        return {image: int(mark) for image, mark in rows}
    except (OSError, ValueError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read as lines of an image and 1, 0 or -1 ({error}): unpack VOC 2007"
        ) from error


def _voc2007(place: Path) -> EvaluationSet:
    test = VocClasses(place)
    train, val = (LazySource(partial(VocClasses, place, split)) for split in ("train", "val"))
    return EvaluationSet(test, test.class_names, SET_TEMPLATES["voc2007"], train, val, multilabel=True)


register("voc2007", _voc2007)
