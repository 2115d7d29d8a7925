"""Labelled images in class folders, as torchvision's ImageFolder has them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree, is_image, unread_images
from lightning_clip.data.shards import IMAGE_EXTENSIONS
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.class_names import NAME_FILES, read_class_names
from lightning_clip.data.sources.rows import Rows

__all__ = ["SPLITS", "ClassFolders"]

log = logging.getLogger(__name__)
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "train2017", "val2017"})


@pair_sources.register("class_folders")
class ClassFolders(PairSource):
    """Labelled images as torchvision's ImageFolder has them: one folder per class, its name the class name.

    For training, `ClipDataModule(captions={"name": "template", "templates": [...]})` makes captions of the names. Hidden files
    and folders without images do not count.

    Args:
        path: the folder of class folders, or a zip file of them.
        names: a file with a readable name for each folder (n01440764, 0017): lines "n01440764 tench", a JSON mapping, or one
            name a line in the order of the sorted folders. None takes `classes.txt`, `class_names.txt`, `class_names.json` or
            `LOC_synset_mapping.txt` from the folder or the one above, if there is one.
        split: folder to read where there is one for each split, such as "train".

    Raises:
        InputError: no folder with images, or folders that are splits and none was chosen.
    """

    def __init__(self, path: str, names: str | None = None, split: str | None = None) -> None:
        self._tree = FileTree(path if split is None else str(existing_path(Path(path) / split, "folder of a split")))
        files = self._tree.names()
        images = [name for name in files if is_image(name) and len(PurePosixPath(name).parts) > 1]
        folders = sorted({PurePosixPath(name).parts[0] for name in images})
        if not folders:
            raise InputError(f"{path!r} has no folder per class with images in it ({', '.join(IMAGE_EXTENSIONS)})")
        if set(map(str.lower, folders)) <= SPLITS:
            raise InputError(
                f"{path!r} has a folder for each split, not for each class: name one of them, such as "
                f"{str(Path(path) / folders[0])!r}, or give split={folders[0]}"
            )
        if skipped := unread_images(files):
            listing = ", ".join(f"{count} .{ending}" for ending, count in skipped.most_common())
            log.warning("%s: %s files are no images that can be read: convert them to jpg or png", path, listing)
        labels = {folder: label for label, folder in enumerate(folders)}
        self.class_names: Sequence[str] = read_class_names(self._names_file(names), folders)
        # The images of a class one after the other, as torchvision has them.
        images.sort(key=lambda name: (labels[PurePosixPath(name).parts[0]], name))
        self._rows = Rows([{"image": name, "label": labels[PurePosixPath(name).parts[0]]} for name in images])
        counts = Counter(PurePosixPath(name).parts[0] for name in images)
        shown = ", ".join(f"{self.class_names[labels[folder]]} {counts[folder]:,}" for folder in folders[:8])
        self.layout = f"one folder for each of {len(folders)} classes ({shown}{', ...' if len(folders) > 8 else ''})"

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> int:
        label: int = self._rows[index]["label"]
        return label

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["image"])

    def __getitem__(self, index: int) -> Pair:
        row = self._rows[index]
        name, label = row["image"], row["label"]
        names = {"class_name": self.class_names[label]}
        return Pair(self._tree.read(name), captions=(), key=str(self._tree.path / name), label=label, metadata=names)

    def _names_file(self, given: str | None) -> Path | None:
        if given is not None:
            return existing_path(given, "file of class names")
        if not self._tree.path.is_dir():
            return None
        places = (folder / name for folder in (self._tree.path, self._tree.path.parent) for name in NAME_FILES)
        return next((place for place in places if place.is_file()), None)


@recognises(200)
def _class_folders(name: str) -> Callable[..., PairSource] | None:
    """Two folders or more that hold images; a single one is seldom a class."""
    path = Path(name).expanduser()
    if not path.exists() or not (path.is_dir() or path.suffix == ".zip"):
        return None
    images = [PurePosixPath(file).parts for file in FileTree(name).names() if is_image(file)]
    folders = {parts[0] for parts in images if len(parts) > 1}
    if len(folders) == 1 and len(images) == sum(len(parts) > 1 for parts in images):
        only = next(iter(folders))
        raise InputError(
            f"{name!r} has its images in the one folder {only!r} and no text that was found: give a table that names them, or "
            "name=class_folders if that folder is a class"
        )
    return partial(ClassFolders, name) if len(folders) > 1 else None
