"""Groups of images from a table, and how often something occurs in each."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.evaluation.intervals import wilson

__all__ = ["Rate", "group_rates", "joined_rows", "largest_gap", "matched_rows", "read_groups"]

Rate = list[Any]  # [group, hits, images, rate, lower end, upper end], a list as JSON gives it back


def read_groups(path: str, column: str, columns: Sequence[str]) -> tuple[list[str], dict[str, list[str]]]:
    """Images and, for each attribute, the group of each; "" where a group is not known.

    Args:
        path: csv with a row an image.
        column: of the image names.
        columns: attributes; empty takes all other columns.

    Raises:
        InputError: a missing file or column, no row, or an image with two rows.
    """
    with existing_path(path, "table of groups").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise InputError(f"table of groups {path!r} has no row: it needs one for each image")
    for name in (column, *columns):
        if name not in rows[0]:
            raise InputError(f"table of groups {path!r} has no column {name!r}: {nearest(name, rows[0])}")
    images = [row[column] for row in rows]
    name, times = Counter(images).most_common(1)[0]
    if times > 1:
        raise InputError(f"table of groups {path!r} has {times} rows for image {name!r}: leave one")
    chosen = list(columns) or [name for name in rows[0] if name != column]
    return images, {name: [(row[name] or "").strip() for row in rows] for name in chosen}


def matched_rows(images: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """Place in `keys` of each image, int64 (N,): the same name, or the same ending of the path if only these two have it.

    -1 where there is none, or more than one.

    Args:
        images: N names or paths.
        keys: of a set.

    Examples:
        >>> matched_rows(["a/1.jpg", "2.jpg", "3.jpg"], ["x/2.jpg", "x/a/1.jpg"]).tolist()
        [1, 0, -1]
    """
    exact = {key: place for place, key in enumerate(keys)}
    found = np.array([exact.get(image, -1) for image in images], np.int64)
    parts = [PurePosixPath(image).parts for image in images]
    others = [PurePosixPath(key).parts for key in keys]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        if (found >= 0).all():
            break
        tails, ends = ([entry[-depth:] if len(entry) >= depth else () for entry in side] for side in (parts, others))
        own, theirs = Counter(tails), Counter(ends)
        place = {end: number for number, end in enumerate(ends)}
        for row in np.flatnonzero(found < 0).tolist():
            if tails[row] and own[tails[row]] == 1 == theirs[tails[row]]:
                found[row] = place[tails[row]]
    return found


def joined_rows(images: Sequence[str], keys: Sequence[str]) -> np.ndarray:
    """Place in `keys` of each image of a table, int64 (N,), as `matched_rows` finds it.

    Args:
        images: N names or paths.
        keys: of the set.

    Raises:
        InputError: an image that is not among the keys, or fits several.
    """
    found = matched_rows(images, keys)
    absent = np.flatnonzero(found < 0)
    if len(absent):
        raise InputError(
            f"{len(absent)} of {len(images)} images of the table are not in the set, the first is {images[absent[0]]!r}: "
            f"names are the set's keys, such as {keys[0] if keys else ''!r}, or file names that occur once"
        )
    return found


def group_rates(hit: np.ndarray, groups: Sequence[str], confidence: float = 0.95) -> list[Rate]:
    """How often something occurs in each group, with Wilson intervals; groups in the order of their numbers, then names.

    Args:
        hit: bool (N,).
        groups: of each image, (N,); "" is skipped.
        confidence: of the intervals, in (0, 1).

    Examples:
        >>> [rate[:4] for rate in group_rates(np.array([True, False, True]), ["20-29", "3-9", "20-29"])]
        [['3-9', 0, 1, 0.0], ['20-29', 2, 2, 1.0]]
    """
    names = np.array(groups)
    rates = []
    for name in sorted({group for group in groups if group}, key=_order):
        inside = names == name
        hits, images = int(hit[inside].sum()), int(inside.sum())
        rates.append([name, hits, images, hits / images, *wilson(hits, images, confidence)])
    return rates


def largest_gap(rates: Sequence[Rate]) -> tuple[float | None, float]:
    """Highest rate over the lowest, None where the lowest is 0; and highest less lowest.

    Args:
        rates: of at least one group, as `group_rates` gives them.
    """
    values = [rate[3] for rate in rates]
    low, high = min(values), max(values)
    return (high / low if low > 0 else None), high - low


def _order(group: str) -> tuple[float, str]:
    number = re.match(r"\d+", group)
    return (float(number[0]) if number else float("inf")), group
