"""Files that a table names, images most of all, in a folder or a tar archive."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.shards import TarReader

__all__ = ["ImageStore"]


class ImageStore:
    """The place where a table's images are.

    Args:
        path: a folder, or an uncompressed tar archive. Inside an archive a name is found by its path or, where that is
            unique, by its file name alone.

    Raises:
        InputError: the path is missing or neither of both.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing_path(path, "image folder or tar")
        self._tar: TarReader | None = None
        self._by_file_name: dict[str, str] = {}
        if self.path.is_file():
            if self.path.suffix != ".tar":
                raise InputError(f"images {str(path)!r} must be a folder or a .tar archive")
            self._tar = TarReader(self.path)
            self._by_file_name = {PurePosixPath(name).name: name for name in self._tar.names()}
            if len(self._by_file_name) < len(self._tar.names()):
                self._by_file_name = {}  # names repeat in several folders: only whole paths are unambiguous

    def read(self, name: str) -> bytes:
        """The image's bytes.

        Raises:
            FileNotFoundError: the store has no such image.
        """
        if self._tar is None:
            try:
                return (self.path / name).read_bytes()
            except OSError as error:
                raise FileNotFoundError("image file missing") from error
        member = name if name in self._tar else self._by_file_name.get(name)
        if member is None:
            raise FileNotFoundError("image missing from the tar archive")
        return self._tar.read(member)
