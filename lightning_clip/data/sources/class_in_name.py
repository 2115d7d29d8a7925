"""Labelled images in one folder, the class in each file's name."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from lightning_clip.core.errors import InputError
from lightning_clip.data.file_tree import FileTree, is_image, warn_of_unread
from lightning_clip.data.sources.base import pair_sources
from lightning_clip.data.sources.labelled_files import LabelledFiles

__all__ = ["ClassInName"]


@pair_sources.register("class_in_name")
class ClassInName(LabelledFiles):
    """Images such as `cat_001.jpg` and `cat_002.jpg`, as the Oxford pets have them.

    Args:
        path: the folder, or a zip file.
        pattern: a regular expression whose first group is the class, in a file's name without its ending.

    Raises:
        InputError: a pattern without a group, or a name that it does not match.
    """

    def __init__(self, path: str, pattern: str = r"(.*?)[ _.-]*\d+") -> None:
        tree = FileTree(path)
        known = _compiled(pattern)
        files = tree.names()
        warn_of_unread(path, files)
        images = [name for name in files if is_image(name)]
        found = {name: known.fullmatch(PurePosixPath(name).stem) for name in images}
        other = next((name for name, match in found.items() if match is None or not match[1]), None)
        if other is not None or not found:
            raise InputError(f"{path!r} holds {other or 'no images'}, which {pattern!r} does not match: give another pattern")
        classes = {name: match[1] for name, match in found.items() if match is not None}
        names = sorted(set(classes.values()))
        numbers = {name: number for number, name in enumerate(names)}
        labels = [(name, numbers[own]) for name, own in classes.items()]
        super().__init__(tree, labels, names, f"{len(images):,} images of {len(names)} classes, which their names begin with")


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        known = re.compile(pattern)
    except re.error as error:
        raise InputError(f"pattern {pattern!r} is no regular expression ({error})") from error
    if known.groups < 1:
        raise InputError(f"pattern {pattern!r} needs a group, such as (.*?)_\\d+, that matches the class")
    return known
