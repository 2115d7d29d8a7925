"""Files that a table names, images most of all, in a folder or an archive."""

from __future__ import annotations

import contextlib
import os
import stat
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.shards import TarReader

__all__ = ["ImageStore"]

_LARGEST = 1 << 30  # bytes of a file; whoever names a larger one does not mean a picture


class _Archive(Protocol):
    """An archive whose members are read by name."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...


class ImageStore:
    """The place where a table's images are; nothing outside of it is read.

    Args:
        path: a folder, an uncompressed tar archive, or a zip file. Inside an archive a name is found by its path or, where that
            is unique, by its file name alone.

    Raises:
        InputError: the path is missing or none of these.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = existing_path(path, "image folder or tar")
        self._root = Path(os.path.normpath(Path.cwd() / self.path))
        self._archive: _Archive | None = None
        self._members: dict[str, str] = {}
        if self.path.is_file():
            if self.path.suffix not in (".tar", ".zip"):
                raise InputError(f"images {str(path)!r} must be a folder, or a .tar or .zip archive")
            self._archive = TarReader(self.path) if self.path.suffix == ".tar" else _Zip(self.path)
            names = self._archive.names()
            by_file_name = {PurePosixPath(name).name: name for name in names}
            if len(by_file_name) < len(names):
                by_file_name = {}  # names repeat in several folders: only whole paths are unambiguous
            self._members = {**by_file_name, **{name: name for name in names}}

    def members(self) -> list[str]:
        """Paths of the files in an archive; none for a folder."""
        return [] if self._archive is None else self._archive.names()

    def place_of(self, name: str) -> Path | None:
        """Where a name leads in a folder; None where that is outside of it.

        Args:
            name: of a file, relative to the folder, or absolute.
        """
        # Links are followed wherever they lead: whoever set them into the folder meant it.
        found = Path(os.path.normpath(self._root / name))
        return found if self._root in found.parents else None

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Args:
            name: relative to the folder, or a member of the archive.

        Raises:
            FileNotFoundError: there is no such file in the folder or archive, or it is no regular file of a picture's size.
        """
        try:
            return self._found(name)
        except FileNotFoundError:
            # macOS takes letters and their accents apart, other systems and most programs do not.
            others = {unicodedata.normalize(form, name) for form in ("NFC", "NFD")} - {name}
            for other in others:
                with contextlib.suppress(FileNotFoundError):
                    return self._found(other)
            raise

    def _found(self, name: str) -> bytes:
        if self._archive is None:
            return _content(self.place_of(name))
        member = self._members.get(name)
        if member is None:
            raise FileNotFoundError("image missing from the archive")
        return self._archive.read(member)


def _content(path: Path | None) -> bytes:
    """Bytes of a regular file of bounded size: pipes would wait, and devices never end."""
    if path is None:
        raise FileNotFoundError("image outside of the images folder")
    try:
        # Not to wait for a pipe; regular files know no waiting.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise FileNotFoundError("image is no regular file")
            if about.st_size > _LARGEST:
                raise FileNotFoundError("image file too large")
            return file.read()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        known = error.args[0] if len(error.args) == 1 else "image file missing"
        raise FileNotFoundError(known) from error


class _Zip:
    """A zip file, opened in each process by itself, since its readers move one common place in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def names(self) -> list[str]:
        """Members that are files."""
        return [entry.filename for entry in self._file().infolist() if not entry.is_dir()]

    def read(self, name: str) -> bytes:
        """A member's bytes.

        Raises:
            OSError: it cannot be unpacked, or is far larger than a picture.
        """
        try:
            if self._file().getinfo(name).file_size > _LARGEST:
                raise OSError("image file too large")
            return self._file().read(name)
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError) as error:
            raise OSError("zip member is damaged or encrypted") from error

    def __getstate__(self) -> dict[str, Path]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Path]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]

    def _file(self) -> zipfile.ZipFile:
        if self._opened is None or self._opened[0] != os.getpid():
            try:
                self._opened = (os.getpid(), zipfile.ZipFile(self.path))
            except (zipfile.BadZipFile, OSError) as error:
                raise InputError(f"zip file {str(self.path)!r} cannot be read ({error}): check the file") from error
        return self._opened[1]
