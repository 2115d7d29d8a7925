"""Images with a text file of the same name beside them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import PurePosixPath

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree, is_image, warn_of_unread
from lightning_clip.data.sources.base import PairSource, pair_sources
from lightning_clip.data.sources.columns import texts
from lightning_clip.data.sources.row_store import Rows
from lightning_clip.data.text_files import decode_text, lines_of

__all__ = ["FilePairs", "pairs_of"]

log = logging.getLogger(__name__)
_TEXTS = (".txt", ".caption", ".json")


@pair_sources.register("file_pairs")
class FilePairs(PairSource):
    """`x.jpg` with `x.txt` beside it, in a folder with all its sub-folders, or in a zip file.

    A text file has a caption a line. `x.caption` and `x.json` (its field `caption`) serve where there is no `x.txt`; this is
    what img2dataset writes as `files`, too. Images without a text are omitted and counted.

    Args:
        path: the folder or zip file.
        caption_key: field of the captions in .json files.

    Raises:
        InputError: no image has a text beside it.
    """

    def __init__(self, path: str, caption_key: str = "caption") -> None:
        self.path, self.caption_key = path, caption_key
        self._tree = FileTree(path)
        files = self._tree.names()
        warn_of_unread(path, files)
        found, images = pairs_of(files)
        if not found:
            raise InputError(f"{path!r} has no image with a text beside it, such as 1.jpg and 1.txt ({images} images)")
        if len(found) < images:
            log.warning("%s: omitted %d of %d images without a text file beside them", path, images - len(found), images)
        self._rows = Rows([{"image": image, "text": text} for image, text in found])
        self.layout = f"{len(found):,} images with a text file of the same name beside them"

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, index: int) -> tuple[str, ...]:
        name = self._rows[index]["text"]
        content = self._tree.read(name)
        if not name.endswith(".json"):
            return lines_of(content)
        try:
            record = json.loads(decode_text(content))
        except (ValueError, RecursionError) as error:
            raise ValueError("caption file is no JSON") from error
        return texts(record.get(self.caption_key), self.caption_key) if isinstance(record, dict) else ()

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["image"])

    def __getitem__(self, index: int) -> Pair:
        name = self._rows[index]["image"]
        return Pair(self._tree.read(name), self.captions(index), str(PurePosixPath(name).with_suffix("")))


def pairs_of(names: Iterable[str]) -> tuple[list[tuple[str, str]], int]:
    """(image, text file) of each image that has one, and how many images there are.

    Args:
        names: of all files.
    """
    known = set(names)
    images = sorted(name for name in known if is_image(name))
    found = []
    for image in images:
        stem = PurePosixPath(image).with_suffix("")
        text = next((f"{stem}{ending}" for ending in _TEXTS if f"{stem}{ending}" in known), None)
        if text is not None:
            found.append((image, text))
    return found, len(images)
