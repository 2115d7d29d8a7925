"""Pictures in a folder for each class whose number is known beforehand, and the sets that are no more than that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.file_tree import FileTree, is_image
from lightning_clip.data.sources import PairSource, Subset
from lightning_clip.data.sources.labelled_files import LabelledFiles
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.paper_words import in_the_papers_words
from lightning_clip.prompts.sets.splits import drawn
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__ = ["class_folders", "files_of_folders", "first_folder"]

_RESISC45_TRAIN = 70  # images of each class: the paper trains on 3,150 of 45 classes


def class_folders(path: Path) -> list[str]:
    """Names of the folders in a folder, sorted; hidden ones do not count.

    Args:
        path: where they are.

    Raises:
        InputError: there is none.
    """
    found = sorted(place.name for place in path.iterdir() if place.is_dir() and not place.name.startswith("."))
    if not found:
        raise InputError(f"{str(path)!r} has no folder per class: put one there for each")
    return found


def files_of_folders(path: Path, labels: Mapping[str, int], names: Sequence[str], other: str = "") -> LabelledFiles:
    """Pictures of the folders that have a label, class by class.

    Args:
        path: where the folders are.
        labels: name of a folder -> class.
        names: of all classes.
        other: what to say of a folder without a label; "" passes over it.

    Raises:
        InputError: no picture, or a folder without a label where these are not passed over.
    """
    tree = FileTree(str(path))
    placed = [(name, PurePosixPath(name).parts[0]) for name in tree.names() if is_image(name) and "/" in name]
    if other and (strange := next((folder for _, folder in placed if folder not in labels), None)) is not None:
        raise InputError(f"{str(path / strange)!r} {other}: move it away, or check the path")
    found = sorted(((name, labels[folder]) for name, folder in placed if folder in labels), key=lambda own: (own[1], own[0]))
    if not found:
        raise InputError(f"{str(path)!r} has no image in a folder per class: is the set unpacked?")
    return LabelledFiles(tree, found, list(names), f"one folder for each of {len(names)} classes")


def first_folder(root: Path, *names: str) -> Path:
    """The first of some folders that is there.

    Args:
        root: where they are.
        names: of the folders.

    Raises:
        InputError: none is.
    """
    found = next((root / name for name in names if (root / name).is_dir()), None)
    if found is None:
        raise InputError(f"{str(root)!r} has no folder {' or '.join(map(repr, names))}: is the set whole?")
    return found


def _birdsnap(place: Path) -> EvaluationSet:
    """train/CLASS/*.jpg and test/CLASS/*.jpg."""
    test = first_folder(place, "test")
    folders = class_folders(test)
    labels = {folder: number for number, folder in enumerate(folders)}
    names = in_the_papers_words("birdsnap", folders)
    train = LazySource(partial(files_of_folders, place / "train", labels, names, "is no class of the test split"))
    return EvaluationSet(files_of_folders(test, labels, names), names, SET_TEMPLATES["birdsnap"], train)


def _resisc45(place: Path) -> EvaluationSet:
    """CLASS/*.jpg in one piece, of which 70 of each class are for training."""
    folders = class_folders(place)
    names = in_the_papers_words("resisc45", folders)
    whole = files_of_folders(place, {folder: number for number, folder in enumerate(folders)}, names)
    parts = drawn([whole.label(number) for number in range(len(whole))], _RESISC45_TRAIN)
    test, train = _part(whole, parts["test"]), _part(whole, parts["train"])
    return EvaluationSet(test, names, SET_TEMPLATES["resisc45"], train)


def _part(source: PairSource, places: np.ndarray) -> Subset:
    return Subset(source, places.tolist())


register("birdsnap", _birdsnap)
register("resisc45", _resisc45)
