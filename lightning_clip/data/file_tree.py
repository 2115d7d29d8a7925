"""Files under a folder or in a zip file, by their paths; what no person put there does not count."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import existing_path
from lightning_clip.data.hidden import is_hidden
from lightning_clip.data.images import ImageStore
from lightning_clip.data.shards import IMAGE_EXTENSIONS

__all__ = ["OTHER_IMAGES", "FileTree", "is_image", "unread_images", "warn_of_unread"]

log = logging.getLogger(__name__)

# Kinds of pictures that are not read; where there are many of them, people should know.
OTHER_IMAGES = frozenset({"heic", "heif", "avif", "svg", "psd", "dng", "cr2", "nef", "arw", "jxl", "eps", "ai"})


class FileTree:
    """A folder, or a zip file that is used like one.

    Args:
        path: of either.

    Raises:
        InputError: it is missing, or neither.
    """

    def __init__(self, path: str) -> None:
        self.path = existing_path(path, "folder or zip file")
        self.files = ImageStore(self.path)

    def names(self) -> list[str]:
        """Paths of all files with / between folders, sorted; hidden files and what systems leave behind are not among them."""
        found = self._walk() if self.path.is_dir() else iter(self.files.members())
        return sorted(name for name in found if not is_hidden(name))

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: there is no such file any more.
        """
        return self.files.read(name)

    def _walk(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self.path, followlinks=True):
            folders[:] = sorted(name for name in folders if not is_hidden(name))
            inside = Path(folder).relative_to(self.path)
            yield from ((inside / name).as_posix() for name in files)


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image that is read."""
    return PurePosixPath(name).suffix.lower().lstrip(".") in IMAGE_EXTENSIONS


def unread_images(names: Iterable[str]) -> str:
    """How many pictures there are of kinds that are not read, such as "3 .heic, 1 .dng"; empty where there are none."""
    endings = (PurePosixPath(name).suffix.lower().lstrip(".") for name in names)
    counts = Counter(ending for ending in endings if ending in OTHER_IMAGES)
    return ", ".join(f"{count:,} .{ending}" for ending, count in counts.most_common())


def warn_of_unread(path: str, names: Iterable[str]) -> None:
    """Says how many pictures are not read.

    Args:
        path: of the folder.
        names: of all files in it.
    """
    if listing := unread_images(names):
        log.warning("%s: %s files are no images that can be read: convert them to jpg or png", path, listing)
