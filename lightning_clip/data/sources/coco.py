"""COCO's annotations: pictures in a folder, and one JSON file with the boxes of all of them."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.types import Pair
from lightning_clip.data.boxes import BOXES, BoxedSource, Boxes
from lightning_clip.data.sources.base import pair_sources

__all__ = ["CocoBoxes"]

_FILES = (
    "annotations/instances_{split}2017.json",
    "annotations/instances_{split}.json",
    "annotations/{split}.json",
    "{split}.json",
)
_FOLDERS = ("{split}2017", "images/{split}2017", "images/{split}", "{split}", "images", "")


@pair_sources.register("coco")
class CocoBoxes(BoxedSource):
    """Pictures with boxes as COCO, LVIS and Objects365 hand them out, or whatever is exported in their form.

    Boxes that reach out of their picture are cut to it; of those that are empty or wholly outside the number is in `dropped`.
    Pictures without boxes stay. Class names are those of "categories", in the order of their ids.

    Args:
        path: folder of the set.
        split: "train", "val", ..., in the names of files and folders.
        annotations: file of annotations below `path`; None looks for annotations/instances_SPLIT2017.json and the like.
        pictures: folder of pictures below `path`; None looks for SPLIT2017, images/SPLIT2017 and the like.

    Raises:
        InputError: a missing file or folder, a file that is no such JSON, an annotation of a picture or class that the file
            does not have, or a picture that is not there.
    """

    def __init__(self, path: str, split: str = "val", annotations: str | None = None, pictures: str | None = None) -> None:
        self.root = existing_path(path, "coco path")
        self.layout = "COCO's annotations"
        file = _first(self.root, annotations, _FILES, split, "annotations")
        content = _read(file)
        self._places, self.class_names = _classes(content, file)
        images = {_field(entry, "id", file): entry for entry in content["images"]}
        folder = _folder(self.root, pictures, split, next(iter(images.values()), {}))
        self._images = [images[key] for key in sorted(images)]
        self._paths = [folder / str(_field(entry, "file_name", file)) for entry in self._images]
        if missing := next((found for found in self._paths if not found.is_file()), None):
            raise InputError(
                f"picture {str(missing)!r} is named in {file.name} and is not there: is the set whole, or give pictures"
            )
        self.dropped = 0
        self._boxes = self._read_boxes(content["annotations"], images, file)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Pair:
        path = self._paths[index]
        return Pair(path.read_bytes(), (), key=path.stem, columns={BOXES: self.boxes(index)})

    def captions(self, index: int) -> tuple[str, ...]:
        return ()

    def label(self, index: int) -> int | None:
        return None

    def place(self, index: int) -> str:
        return str(self._paths[index])

    def boxes(self, index: int) -> Boxes:
        return self._boxes[index]

    def _read_boxes(self, entries: list[Any], images: Mapping[Any, Any], file: Path) -> list[Boxes]:
        """The boxes of each picture, in the order of the pictures."""
        found: dict[Any, list[tuple[list[float], int, bool]]] = defaultdict(list)
        for entry in entries:
            key, kind = _field(entry, "image_id", file), _field(entry, "category_id", file)
            if key not in images:
                raise InputError(f"an annotation in {str(file)!r} is of image_id {key!r}, which is not among its images")
            if kind not in self._places:
                raise InputError(f"an annotation in {str(file)!r} has category_id {kind!r}, which is not among its categories")
            corners = _corners(_field(entry, "bbox", file), images[key], file)
            if corners is None:
                self.dropped += 1
            else:
                found[key].append((corners, self._places[kind], bool(entry.get("iscrowd", 0))))
        rows = [found[_field(entry, "id", file)] for entry in self._images]
        return [Boxes.of(*(list(part) for part in zip(*row, strict=True))) if row else Boxes.of([], []) for row in rows]


def _classes(content: Mapping[str, Any], file: Path) -> tuple[dict[Any, int], list[str]]:
    """Place of each category's id, and the names in that order."""
    categories = sorted(content["categories"], key=lambda entry: _field(entry, "id", file))
    names = [str(_field(entry, "name", file)).replace("_", " ") for entry in categories]  # as LVIS has them
    return {entry["id"]: place for place, entry in enumerate(categories)}, names


def _corners(box: Any, image: Mapping[str, Any], file: Path) -> list[float] | None:
    """Left, top, width and height in pixels -> corners as shares of the picture; None where nothing of it is inside."""
    width, height = (float(_field(image, side, file)) for side in ("width", "height"))
    if not isinstance(box, list | tuple) or len(box) != 4 or not all(isinstance(part, int | float) for part in box):
        raise InputError(
            f"an annotation in {str(file)!r} has bbox {str(box)[:60]}: it must be [left, top, width, height] in pixels"
        )
    if width <= 0 or height <= 0:
        raise InputError(f"an image in {str(file)!r} has size {width:g} x {height:g}: give its width and height in pixels")
    left, top, across, down = map(float, box)
    sides = (width, height, width, height)
    corners = [
        min(max(edge / side, 0.0), 1.0) for edge, side in zip((left, top, left + across, top + down), sides, strict=True)
    ]
    return corners if corners[2] - corners[0] > 1e-6 and corners[3] - corners[1] > 1e-6 else None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"annotations {str(file)!r} cannot be read: {error}") from error
    if not isinstance(content, dict):
        content = {}
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(content.get(key), list)]
    if missing:
        raise InputError(
            f"annotations {str(file)!r} have no list {missing[0]!r}: COCO's file has images, annotations and categories"
        )
    return content


def _field(entry: Any, name: str, file: Path) -> Any:
    if not isinstance(entry, Mapping) or name not in entry:
        raise InputError(f"an entry of {str(file)!r} has no {name!r}: {str(entry)[:80]}")
    return entry[name]


def _first(root: Path, given: str | None, patterns: tuple[str, ...], split: str, what: str) -> Path:
    """The file that was given, or the first that is there."""
    if given is not None:
        return existing_path(root / given, f"coco {what}")
    for pattern in patterns:
        if (path := root / pattern.format(split=split)).is_file():
            return path
    known = ", ".join(pattern.format(split=split) for pattern in patterns)
    raise InputError(f"{str(root)!r} has none of {known}: give {what}, the file below it")


def _folder(root: Path, given: str | None, split: str, example: Mapping[str, Any]) -> Path:
    """The folder that was given, or the first that holds the first picture."""
    if given is not None:
        return existing_path(root / given, "coco pictures")
    name = str(example.get("file_name", ""))
    found = [root / pattern.format(split=split) for pattern in _FOLDERS]
    return next((folder for folder in found if (folder / name).is_file()), found[0])
