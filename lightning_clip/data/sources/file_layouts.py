"""A folder or zip file of plain files: which of the layouts it is, by one look at the names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePosixPath

from lightning_clip.core.errors import InputError
from lightning_clip.data.file_tree import FileTree, is_image, unread_images
from lightning_clip.data.sources.base import PairSource, recognises
from lightning_clip.data.sources.file_pairs import FilePairs, pairs_of
from lightning_clip.data.sources.folders import ClassFolders
from lightning_clip.data.sources.pictures import ImagesAlone
from lightning_clip.data.sources.tables import TableSource

__all__: list[str] = []


@recognises(110)
def _files(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    if not path.exists() or not (path.is_dir() or path.suffix == ".zip"):
        return None
    names = FileTree(name).names()
    if pairs_of(names)[0]:
        return partial(FilePairs, name)
    if path.is_dir() and any(path.glob("*.parquet")):
        return partial(TableSource, name)
    folders = [PurePosixPath(file).parts[:-1] for file in names if is_image(file)]
    if len({folder[0] for folder in folders if folder}) > 1:
        return partial(ClassFolders, name)
    _refuse(name, folders, names)
    return None


def _refuse(name: str, folders: list[tuple[str, ...]], names: list[str]) -> None:
    """Says what is missing where there are images, but nothing that tells texts or classes."""
    if not folders:
        if listing := unread_images(names):
            raise InputError(f"{name!r} holds images that are not read ({listing}): convert them to jpg or png")
        return
    if all(folders):  # a single folder is seldom a class
        raise ImagesAlone(
            f"{name!r} has its images in the one folder {folders[0][0]!r} and no text that was found: give a table that names "
            "them, or name=class_folders if that folder is a class"
        )
    # Nothing says whether IMG_0001.jpg is of a class "IMG": people do.
    raise ImagesAlone(
        f"{name!r} holds images without text or class: put x.txt beside x.jpg, give a table that names them, one folder for "
        "each class, or name=class_in_name where files are named like cat_001.jpg"
    )
