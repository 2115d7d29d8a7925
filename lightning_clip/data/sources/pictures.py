"""Pictures alone: every image file of a folder or a zip file, without text or class, for searching them."""

from __future__ import annotations

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree, is_image, warn_of_unread
from lightning_clip.data.sources.base import PairSource, pair_sources
from lightning_clip.data.sources.row_store import Rows

__all__ = ["ImagesAlone", "Pictures"]


class ImagesAlone(InputError):
    """A folder holds images, and nothing that tells texts or classes."""


@pair_sources.register("pictures")
class Pictures(PairSource):
    """Image files in any folders, as a camera or a phone leaves them.

    Args:
        path: of a folder or a zip file.

    Raises:
        InputError: no image file in it.
    """

    layout = "pictures without text or class"

    def __init__(self, path: str) -> None:
        self._tree = FileTree(path)
        names = self._tree.names()
        self._rows = Rows([{"image": name} for name in names if is_image(name)])
        if not len(self._rows):
            raise InputError(f"{path!r} holds no image files")
        warn_of_unread(path, names)

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, index: int) -> tuple[str, ...]:
        return ()

    def label(self, index: int) -> None:
        return None

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["image"])

    def __getitem__(self, index: int) -> Pair:
        name = self._rows[index]["image"]
        return Pair(self._tree.read(name), (), name)
