"""Labelled images in class folders, as torchvision's ImageFolder has them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.types import Pair
from lightning_clip.data.shards import IMAGE_EXTENSIONS
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises

__all__ = ["ClassFolders"]


@pair_sources.register("class_folders")
class ClassFolders(PairSource):
    """Labelled images as torchvision's ImageFolder has them: one folder per class, its name the class name.

    For training, `ClipDataModule(captions={"name": "template", "templates": [...]})` makes captions of the names.

    Args:
        path: the folder of class folders.
    """

    def __init__(self, path: str) -> None:
        root = existing_path(path, "folder of class folders")
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
        self.class_names = [folder.name for folder in folders]
        self._files = [
            (file, label)
            for label, folder in enumerate(folders)
            for file in sorted(folder.rglob("*"))
            if file.suffix.lower().lstrip(".") in IMAGE_EXTENSIONS
        ]
        if not self._files:
            raise InputError(f"{path!r} has no folder per class with images in it ({', '.join(IMAGE_EXTENSIONS)})")

    def __len__(self) -> int:
        return len(self._files)

    def label(self, index: int) -> int:
        return self._files[index][1]

    def __getitem__(self, index: int) -> Pair:
        file, label = self._files[index]
        names = {"class_name": self.class_names[label]}
        return Pair(image=file.read_bytes(), captions=(), key=str(file), label=label, metadata=names)


@recognises(200)
def _class_folders(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    return partial(ClassFolders, name) if path.is_dir() and any(entry.is_dir() for entry in path.iterdir()) else None
