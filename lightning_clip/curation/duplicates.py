"""Duplicates: which images are the same as an earlier one, or nearly so."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

__all__ = ["as_items", "close_pairs", "near_duplicates", "repeats"]

_BITS = np.array([value.bit_count() for value in range(1 << 8)], dtype=np.uint8)
_CHUNK = 1 << 20  # pairs compared at a time
Found = np.ndarray  # int64 (N,): the earlier picture that each repeats, -1 for those that stay


def as_items(hashes: np.ndarray) -> np.ndarray:
    """Rows of bytes (N, W) as N single values, which numpy can sort and look for."""
    return np.ascontiguousarray(hashes).view(f"V{hashes.shape[1]}").reshape(-1)


def repeats(hashes: np.ndarray) -> Found:
    """The first place with the same hash, -1 for the first itself.

    Args:
        hashes: (N,) numbers or (N, W) bytes.

    Examples:
        >>> repeats(np.array([7, 8, 7, 7])).tolist()
        [-1, -1, 0, 0]
    """
    if not len(hashes):
        return np.zeros(0, np.int64)
    _, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    earliest = first[which.reshape(-1)]
    return np.where(earliest == np.arange(len(hashes)), -1, earliest)


def near_duplicates(hashes: np.ndarray, distance: int) -> Found:
    """For each picture the earliest one that stays and differs in at most `distance` bits, or -1 if it stays itself.

    In the order of the source, a picture stays unless one that stayed before is that near.

    Args:
        hashes: uint8 (N, W), 8 W bits each.
        distance: bits, at least 0.

    Examples:
        >>> near_duplicates(np.array([[0b0000], [0b0001], [0b0011]], dtype=np.uint8), 1).tolist()
        [-1, 0, -1]
    """
    found = repeats(hashes)
    if distance == 0:
        return found
    single = np.flatnonzero(found < 0)
    near: dict[int, list[int]] = {}
    for first, second in close_pairs(hashes[single], distance):
        for earlier, later in zip(first.tolist(), second.tolist(), strict=True):
            near.setdefault(later, []).append(earlier)
    repeated = np.full(len(single), -1, np.int64)
    for later in sorted(near):
        if staying := [earlier for earlier in near[later] if repeated[earlier] < 0]:
            repeated[later] = min(staying)
    found[single] = np.where(repeated < 0, -1, single[repeated])
    # A copy of a picture that has gone itself points at the one that stayed in its place.
    gone = (found >= 0) & (found[found] >= 0)
    found[gone] = found[found[gone]]
    return found


def close_pairs(hashes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs (first < second) that differ in at most `distance` bits, each once, in pieces.

    Two numbers that differ in d bits agree in at least one of d + 1 bands of bits: only those that share a band are compared.

    Args:
        hashes: uint8 (N, W), 8 W bits each.
        distance: bits, less than 8 W.
    """
    edges = np.linspace(0, 8 * hashes.shape[1], distance + 2).astype(int).tolist()
    bands = [_band(hashes, low, min(high, low + 64)) for low, high in pairwise(edges)]
    for number, band in enumerate(bands):
        for first, second in _sharing(band):
            near = _differing(hashes[first], hashes[second]) <= distance
            for earlier in bands[:number]:  # a pair that shares several bands was found by the first of them
                near &= earlier[first] != earlier[second]
            if near.any():
                first, second = first[near], second[near]
                yield np.minimum(first, second), np.maximum(first, second)


def _band(hashes: np.ndarray, low: int, high: int) -> np.ndarray:
    """Bits [low, high) of each hash as one number, uint64 (N,)."""
    bits = np.unpackbits(hashes[:, low // 8 : -(-high // 8)], axis=1)[:, low % 8 : low % 8 + high - low]
    packed = np.zeros((len(hashes), 8), np.uint8)
    packed[:, : -(-(high - low) // 8)] = np.packbits(bits, axis=1)
    band: np.ndarray = packed.view(np.uint64).reshape(-1)
    return band


def _sharing(band: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of places with the same value, in pieces."""
    order = np.argsort(band, kind="stable")
    sorted_band = band[order]
    starts = np.flatnonzero(np.r_[True, sorted_band[1:] != sorted_band[:-1]])
    ends = np.repeat(np.r_[starts[1:], len(band)], np.diff(np.r_[starts, len(band)])) if len(band) else starts
    partners = ends - np.arange(len(band)) - 1  # how many of the same value follow each place
    begin = 0
    while begin < len(band):
        sums = np.cumsum(partners[begin:])
        stop = begin + max(1, int(np.searchsorted(sums, _CHUNK, side="right")))
        many = partners[begin:stop]
        first = np.repeat(np.arange(begin, stop), many)
        offsets = np.arange(len(first)) - np.repeat(np.cumsum(many) - many, many)
        yield order[first], order[first + 1 + offsets]
        begin = stop


def _differing(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    differing: np.ndarray = _BITS[first ^ second].sum(axis=1, dtype=np.int64)
    return differing
