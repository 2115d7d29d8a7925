"""Sets whose labels are worked out from annotations of a scene: KITTI's closest vehicle, CLEVR's number of things."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource, Subset
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.foldered import first_folder
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.paper_words import paper_class_names
from lightning_clip.prompts.sets.splits import drawn
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__ = ["LabelledPictures", "vehicle_distance"]

_BOUNDS = (8.0, 20.0, 999.0)  # metres: beside me, nearby, in the distance; beyond: none (VTAB, arXiv 1910.04867)
_VEHICLES = {"Car", "Van", "Truck"}
_FEWEST = 3  # things in a scene of CLEVR


class LabelledPictures(PairSource):
    """Files of pictures, each with its class.

    Args:
        pictures: (path, class) each.
        class_names: in the order of the classes.
    """

    def __init__(self, pictures: Sequence[tuple[Path, int]], class_names: Sequence[str]) -> None:
        self._pictures, self.class_names = list(pictures), list(class_names)

    def __len__(self) -> int:
        return len(self._pictures)

    def label(self, index: int) -> int:
        """The class of a picture."""
        return self._pictures[index][1]

    def __getitem__(self, index: int) -> Pair:
        path, label = self._pictures[index]
        return Pair(path.read_bytes(), (), str(path), label)

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


def vehicle_distance(annotation: str) -> int:
    """The class of a picture of KITTI by its closest vehicle: 0 up to 8 m, 1 up to 20 m, 2 beyond, 3 without one.

    Args:
        annotation: of label_2, a line a thing: its kind first, its distance ahead in metres the fourteenth.

    Examples:
        >>> vehicle_distance("Car 0 0 0 0 0 0 0 0 0 0 1.2 1.5 12.7 0")
        1
    """
    rows = [line.split() for line in annotation.splitlines()]
    distance = min((float(row[13]) for row in rows if row and row[0] in _VEHICLES), default=1000.0)
    return sum(distance > bound for bound in _BOUNDS)


def _kitti(place: Path) -> EvaluationSet:
    """image_2/*.png and label_2/*.txt, in one piece, of which a tenth of each class is the test split."""
    pictures, labels = first_folder(place, "image_2"), first_folder(place, "label_2")
    names = [str(name) for name in paper_class_names("kitti_distance")]
    found = []
    for picture in sorted(pictures.glob("*.png")):
        note = labels / f"{picture.stem}.txt"
        if not note.is_file():
            raise InputError(f"{str(picture)!r} has no {str(note)!r}: unpack KITTI's labels beside its pictures")
        found.append((picture, vehicle_distance(note.read_text("utf-8"))))
    if not found:
        raise InputError(f"{str(pictures)!r} has no .png: unpack KITTI's pictures there")
    whole = LabelledPictures(found, names)
    parts = drawn([label for _, label in found], 0.9)
    test, train = (Subset(whole, parts[split].tolist()) for split in ("test", "train"))
    return EvaluationSet(test, names, SET_TEMPLATES["kitti_distance"], train)


def _clevr_split(place: Path, split: str) -> LabelledPictures:
    """images/SPLIT/*.png with scenes/CLEVR_SPLIT_scenes.json."""
    notes = place / "scenes" / f"CLEVR_{split}_scenes.json"
    try:
        scenes = json.loads(notes.read_text("utf-8"))["scenes"]
        found = [(place / "images" / split / scene["image_filename"], len(scene["objects"]) - _FEWEST) for scene in scenes]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{str(notes)!r} cannot be read as CLEVR's scenes ({error}): unpack CLEVR_v1.0 again") from error
    return LabelledPictures(sorted(found), [str(name) for name in paper_class_names("clevr_counts")])


def _clevr(place: Path) -> EvaluationSet:
    test = _clevr_split(place, "val")
    train = LazySource(partial(_clevr_split, place, "train"))
    return EvaluationSet(test, test.class_names, SET_TEMPLATES["clevr_counts"], train)


register("kitti_distance", _kitti)
register("clevr_counts", _clevr)
