"""Labelled images in class folders, as torchvision's ImageFolder has them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.file_tree import FileTree, is_image, warn_of_unread
from lightning_clip.data.shards import IMAGE_EXTENSIONS
from lightning_clip.data.sources.base import pair_sources
from lightning_clip.data.sources.class_names import NAME_FILES, read_class_names
from lightning_clip.data.sources.labelled_files import LabelledFiles

__all__ = ["SPLITS", "ClassFolders"]

SPLITS = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing", "train2017", "val2017"})


@pair_sources.register("class_folders")
class ClassFolders(LabelledFiles):
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
        tree = FileTree(path if split is None else str(existing_path(Path(path) / split, "folder of a split")))
        files = tree.names()
        images = [name for name in files if is_image(name) and len(PurePosixPath(name).parts) > 1]
        folders = sorted({PurePosixPath(name).parts[0] for name in images})
        if not folders:
            raise InputError(f"{path!r} has no folder per class with images in it ({', '.join(IMAGE_EXTENSIONS)})")
        if set(map(str.lower, folders)) <= SPLITS:
            raise InputError(
                f"{path!r} has a folder for each split, not for each class: name one of them, such as "
                f"{str(Path(path) / folders[0])!r}, or give split={folders[0]}"
            )
        warn_of_unread(path, files)
        class_names = read_class_names(_names_file(tree.path, names), folders)
        labels = {folder: label for label, folder in enumerate(folders)}
        # The images of a class one after the other, as torchvision has them.
        labelled = sorted(((name, labels[PurePosixPath(name).parts[0]]) for name in images), key=lambda own: (own[1], own[0]))
        counts = Counter(label for _, label in labelled)
        shown = ", ".join(f"{name} {counts[label]:,}" for label, name in enumerate(class_names[:8]))
        layout = f"one folder for each of {len(folders)} classes ({shown}{', ...' if len(folders) > 8 else ''})"
        super().__init__(tree, labelled, class_names, layout)


def _names_file(folder: Path, given: str | None) -> Path | None:
    """The file of readable class names: the one that was given, or one beside the class folders."""
    if given is not None:
        return existing_path(given, "file of class names")
    if not folder.is_dir():
        return None
    places = (place / name for place in (folder, folder.parent) for name in NAME_FILES)
    return next((place for place in places if place.is_file()), None)
