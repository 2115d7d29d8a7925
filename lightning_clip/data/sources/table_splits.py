"""A table's rows divided into parts by a column."""

from __future__ import annotations

import hashlib
import logging

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.columns import cell
from lightning_clip.data.sources.row_groups import Groups, image_key, text_of
from lightning_clip.data.sources.row_store import Rows
from lightning_clip.data.sources.split_parts import PARTS, Split, SplitCounts, check_part, parts_of

__all__ = ["split_groups"]

log = logging.getLogger(__name__)


def split_groups(rows: Rows, groups: Groups, split: Split, image: str | None, path: str) -> tuple[Groups, str]:
    """The groups of rows in the part that is asked for, and what the split comes to in a line.

    Args:
        rows: of the table.
        groups: those of an image each, after `where`.
        split: the settings.
        image: column with the image's name or bytes; None where there are none.
        path: of the table, for messages.

    Raises:
        InputError: one image belongs to several values, or the part is empty.
    """
    name = f"split by {split.by} {split.test} {split.val} {split.seed} of {groups.digest()}"
    if rows.cache and (kept := rows.cache.load(name)) is not None:
        numbers = kept["numbers"]
        counts = SplitCounts(*(dict(zip(PARTS, kept[kind].tolist(), strict=True)) for kind in ("samples", "values")))
        check_part(split, counts, path)
    else:
        numbers, counts = parts_of(split, _values(rows, groups, split.by, image, path), path)
        if rows.cache:
            arrays = {kind: np.array([getattr(counts, kind)[part] for part in PARTS]) for kind in ("samples", "values")}
            rows.cache.save(name, numbers=numbers, **arrays)
    described = counts.described(split)
    return (groups if split.part is None else groups.chosen(numbers == PARTS.index(split.part))), described


def _values(rows: Rows, groups: Groups, by: str | None, image: str | None, path: str) -> list[str]:
    """The value that decides, for each group; a row without one is divided by its image."""
    found: list[str] = []
    value_of_image: dict[str, str] = {}
    without = 0
    for numbers in (groups[index] for index in range(len(groups))):
        several = [rows[number] for number in numbers.tolist()]
        first = int(numbers[0])
        own = f"image {_name(image_key(cell(several[0], image), first) if image else first)}"
        given = {text_of(value) for row in several if by is not None and (value := cell(row, by)) not in (None, "")}
        value = min(given) if given else own
        without += by is not None and not given
        if by is not None and image is not None and (len(given) > 1 or value_of_image.setdefault(own, value) != value):
            other = max(given - {value}) if len(given) > 1 else value_of_image[own]
            raise InputError(
                f"{rows.place(first)} of {path!r}: its image has {by} {value!r} and {other!r}, and cannot be in two parts: "
                "split by a column that an image has one value of"
            )
        found.append(value)
    if without:
        log.warning("%s: %d of %d pairs have no %s, and are divided by image", path, without, len(found), by)
    return found


def _name(key: object) -> str:
    return hashlib.blake2b(key, digest_size=16).hexdigest() if isinstance(key, bytes) else str(key)
