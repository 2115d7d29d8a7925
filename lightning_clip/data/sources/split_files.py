"""Any source divided into training, validation and test by where its files stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.base import Subset, pair_sources
from lightning_clip.data.sources.split_parts import PARTS, Split, parts_of

__all__ = ["Divided"]


@pair_sources.register("divided")
class Divided(Subset):
    r"""A part of another source: folders of files, shards and whatever has no column to be divided by.

    By default a file belongs to a part by its own name and its folder's, so that the whole may be moved. `split.by` is a
    regular expression that is looked for in the file's path, with / between folders: its group, or the whole match, decides.
    So "(patient\d+)/" keeps a patient's folder together, and "tile_(\d+)_" a scene's tiles.

    Args:
        source: what any source may be: a name, a path, a mapping or a `PairSource`; no stream.
        split: as a table has it, see `Split`.

    Raises:
        InputError: a stream, a pattern that is none or that some file does not have, or an empty part.

    Examples:
        >>> scenes = {"name": "synthetic", "size": 100}
        >>> parts = [len(Divided(scenes, {"test": 0.2, "val": 0.1, "part": part})) for part in ("train", "val", "test")]
        >>> sum(parts)
        100
    """

    def __init__(self, source: Any, split: Mapping[str, Any]) -> None:
        whole = pair_sources.build(source)
        if not whole.random_access:
            raise InputError("divided cannot hold a stream, which has no samples by number: put it into shards on a disk")
        division = Split.of(split)
        name = str(source.get("name", "source") if isinstance(source, Mapping) else source)
        pattern = _pattern(division.by)
        values = [_value(whole.place(index), pattern) for index in range(len(whole))]
        numbers, counts = parts_of(division, values, name)
        chosen = np.ones(len(numbers), bool) if division.part is None else numbers == PARTS.index(division.part)
        super().__init__(whole, np.flatnonzero(chosen))
        self.class_names = whole.class_names
        described = counts.described(division).replace("split by image", "split by file")
        self.layout = "; ".join(filter(None, (whole.layout, described)))


def _pattern(by: str | None) -> re.Pattern[str] | None:
    try:
        return None if by is None else re.compile(by)
    except re.error as error:
        raise InputError(f"split.by {by!r} is no regular expression ({error}): write one such as '(patient\\d+)/'") from error


_NUMBERED = re.compile(r"\w+ \d+ of ")  # "sample 17 of shards/000.tar"


def _value(place: str, pattern: re.Pattern[str] | None) -> str:
    path = PurePath(place)
    if pattern is None:
        numbered = _NUMBERED.match(place)
        return (numbered[0] if numbered else "") + "/".join(PurePath(place[numbered.end() if numbered else 0 :]).parts[-2:])
    found = pattern.search(path.as_posix())
    if found is None:
        raise InputError(f"split.by {pattern.pattern!r} does not occur in {place!r}: write a pattern that every path has")
    return found[1] if pattern.groups and found[1] is not None else found[0]
