"""Labelled images in one folder, the class in each file's name."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree, is_image
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.rows import Rows

__all__ = ["ClassInName"]


@pair_sources.register("class_in_name")
class ClassInName(PairSource):
    """Images such as `cat_001.jpg` and `cat_002.jpg`, as the Oxford pets have them.

    Args:
        path: the folder, or a zip file.
        pattern: a regular expression whose first group is the class, in a file's name without its ending.

    Raises:
        InputError: a pattern without a group, or a name that it does not match.
    """

    def __init__(self, path: str, pattern: str = r"(.*?)[ _.-]*\d+") -> None:
        self._tree = FileTree(path)
        known = _compiled(pattern)
        images = [name for name in self._tree.names() if is_image(name)]
        found = {name: known.fullmatch(PurePosixPath(name).stem) for name in images}
        other = next((name for name, match in found.items() if match is None or not match[1]), None)
        if other is not None or not found:
            raise InputError(f"{path!r} holds {other or 'no images'}, which {pattern!r} does not match: give another pattern")
        classes = {name: match[1] for name, match in found.items() if match is not None}
        self.class_names = sorted(set(classes.values()))
        labels = {name: label for label, name in enumerate(self.class_names)}
        self._rows = Rows([{"image": name, "label": labels[classes[name]]} for name in images])
        self.layout = f"{len(images):,} images of {len(labels)} classes, which their names begin with"

    def __len__(self) -> int:
        return len(self._rows)

    def label(self, index: int) -> int:
        label: int = self._rows[index]["label"]
        return label

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["image"])

    def __getitem__(self, index: int) -> Pair:
        row = self._rows[index]
        names = {"class_name": self.class_names[row["label"]]}
        return Pair(self._tree.read(row["image"]), (), row["image"], row["label"], metadata=names)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is no regular expression ({error})") from error
    if known.groups < 1:
        raise InputError(f"pattern {pattern!r} needs a group, such as (.*?)_\\d+, that matches the class")
    return known


@recognises(300)
def _flat_folder(name: str) -> Callable[..., PairSource] | None:
    """Nothing says whether IMG_0001.jpg is of a class "IMG": people do."""
    path = Path(name).expanduser()
    if not path.is_dir() or not any(is_image(file) for file in FileTree(name).names()):
        return None
    raise InputError(
        f"{name!r} holds images without text or class: put x.txt beside x.jpg, give a table that names them, one folder for "
        "each class, or name=class_in_name where files are named like cat_001.jpg"
    )
