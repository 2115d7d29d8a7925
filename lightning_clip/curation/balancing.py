"""Balancing: at most so many pairs for each entry."""

from __future__ import annotations

import numpy as np

__all__ = ["balanced"]


def balanced(
    owners: np.ndarray, entries: np.ndarray, length: int, most: int, method: str = "queries", seed: int = 0
) -> np.ndarray:
    """Which pairs stay, bool (length,); pairs without a match do not.

    The choice depends on seed, pair and entry alone, not on the order of the matches or on other pairs' chances.

    Args:
        owners: pair of each match, int64 (M,) in [0, length).
        entries: entry of each match, int64 (M,).
        length: pairs.
        most: pairs that an entry may bring in, at least 1.
        method: "queries" takes `most` pairs of each entry; a pair stays if any entry took it (CLIP, Radford et al. 2021,
            section 2.2). "chance" takes a match with probability min(1, most / count of its entry) (MetaCLIP, Xu et al. 2023,
            algorithm 1): no order among the pairs of an entry is needed.
        seed: of the choice.

    Examples:
        >>> balanced(np.array([0, 1, 2, 2]), np.array([0, 0, 0, 1]), length=4, most=1).sum() in (1, 2)
        True
    """
    draws = _draws(seed, owners, entries)
    if method == "chance":
        counts = np.bincount(entries, minlength=1)
        taken = draws < np.minimum(1.0, most / np.maximum(1, counts[entries]))
    else:
        order = np.lexsort((draws, entries))
        sorted_entries = entries[order]
        first = np.searchsorted(sorted_entries, sorted_entries)
        taken = np.zeros(len(entries), dtype=bool)
        taken[order] = np.arange(len(entries)) - first < most
    kept = np.zeros(length, dtype=bool)
    kept[owners[taken]] = True
    return kept


def _draws(seed: int, owners: np.ndarray, entries: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each match (splitmix64 of seed, entry and pair)."""
    mixed = np.full(len(owners), seed % (1 << 64), dtype=np.uint64)
    for values in (entries, owners):
        mixed = mixed + values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)).astype(np.float64) / (1 << 53)
