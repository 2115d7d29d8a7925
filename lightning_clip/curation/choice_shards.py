"""Shards of the pairs that a curation keeps; those of an earlier choice stand until the new ones are complete."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from lightning_clip.core.atomic import beside, take_place
from lightning_clip.data.pack_shards import PackSummary, pack_shards
from lightning_clip.data.sources import PairSource, Subset

__all__ = ["pack_choice", "remove_other_choice"]

_CHOICE = "kept.npy"  # beside the shards: which pairs they hold


def pack_choice(source: PairSource, kept: np.ndarray, pairs_per_shard: int, folder: Path, workers: int) -> PackSummary:
    """Writes `FOLDER/shards`; where that holds another choice, beside it and then in its place. Goes on where it was ended.

    Args:
        source: of all pairs.
        kept: places in it that stay, int64 (K,).
        pairs_per_shard: at least 1.
        folder: of the curation.
        workers: processes.

    Raises:
        InputError: as `pack_shards`.
    """
    shards, new = folder / "shards", folder / "shards.new"
    replaces = shards.exists() and not _is_of(shards, kept)
    place = new if replaces else shards
    if not _is_of(place, kept):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        with beside(place / _CHOICE) as choice:
            np.save(choice, kept)
    pattern = str(place).replace("%", "%%") + "/%06d.tar"
    packed = pack_shards(Subset(source, kept), pattern, pairs_per_shard, workers=workers)
    if replaces:
        take_place(new, shards)
        packed.shards = [shards / path.name for path in packed.shards]
    shutil.rmtree(new, ignore_errors=True)  # of a run that was ended, and chose otherwise
    return packed


def remove_other_choice(kept: np.ndarray, folder: Path) -> None:
    """Removes shards that are not of these pairs, where no others are written."""
    shards = folder / "shards"
    if shards.exists() and not _is_of(shards, kept):
        shutil.rmtree(shards)


def _is_of(shards: Path, kept: np.ndarray) -> bool:
    path = shards / _CHOICE
    return path.exists() and np.array_equal(np.load(path), kept)
