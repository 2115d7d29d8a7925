"""Permutations that need no memory: the numbers at any places, computed from a key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "all_permuted", "mix", "permuted", "permuted_each"]

Integers = NDArray[np.int64]
_SORTED = 1 << 14  # up to this length the order comes from sorting hashes; a network over so few bits would mix badly
_ROUNDS = 6
_AT_ONCE = 1 << 16  # numbers that fit a processor's cache


def mix(*values: int) -> int:
    """Mixes integers into 64 bits (splitmix64), so that neighbouring arguments share nothing.

    Examples:
        >>> mix(0, 1) != mix(1, 0)
        True
    """
    mixed = 0
    for value in values:
        mixed = (mixed + value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed


def permuted(places: Integers, length: int, key: int) -> Integers:
    """The numbers at `places` of a permutation of range(length) that `key` chooses.

    A Feistel network over the next even number of bits, walked again where it leaves the range (Black and Rogaway 2002,
    "Ciphers with arbitrary finite domains"): any place is found in constant time and memory, the same with every version
    of every library.

    Args:
        places: (P,) in [0, length).
        length: how many numbers there are, at least 1.
        key: 64 bits.

    Returns:
        (P,) in [0, length), all different if the places are.

    Examples:
        >>> sorted(permuted(np.arange(5), 5, key=1).tolist())
        [0, 1, 2, 3, 4]
    """
    if length <= _SORTED:
        return _sorted(length, key)[places]
    return _walked(places, np.array([length]), [key], np.zeros(len(places), dtype=np.int64))


def permuted_each(places: Integers, lengths: Integers, keys: Sequence[int], which: Integers) -> Integers:
    """As `permuted`, for several permutations at once.

    Args:
        places: (P,), each within the length of its permutation.
        lengths: (K,) of the permutations.
        keys: K of them.
        which: (P,) in [0, K), the permutation of each place, ascending.

    Returns:
        (P,).

    Examples:
        >>> places, lengths = np.array([0, 1, 2, 0, 1]), np.array([3, 2])
        >>> first = permuted_each(places, lengths, [1, 2], np.array([0, 0, 0, 1, 1]))[:3]
        >>> first.tolist() == permuted(places[:3], 3, key=1).tolist()
        True
    """
    if lengths.min(initial=_SORTED + 1) > _SORTED:
        return _walked(places, lengths, keys, which)
    found = np.empty(len(places), dtype=np.int64)
    borders = np.searchsorted(which, np.arange(len(lengths) + 1))
    for number, (length, key) in enumerate(zip(lengths.tolist(), keys, strict=True)):
        own = slice(borders[number], borders[number + 1])
        found[own] = permuted(places[own], length, key)
    return found


def all_permuted(length: int, key: int) -> Iterator[Integers]:
    """What `permuted` gives for all places in order, some at a time: several times faster, since every half number occurs.

    Args:
        length: how many numbers there are, at least 1.
        key: 64 bits.

    Yields:
        (p,) of the next places.

    Examples:
        >>> np.concatenate(list(all_permuted(5, key=1))).tolist() == permuted(np.arange(5), 5, key=1).tolist()
        True
    """
    if length <= _SORTED:
        yield _sorted(length, key)
        return
    half = _half(length)
    low_bits, every = np.uint32((1 << half) - 1), np.arange(1 << half, dtype=np.uint64)
    tables = [(_hashed(every, _one(mix(key, number))) & np.uint64(low_bits)).astype(np.uint32) for number in range(_ROUNDS)]

    def network(numbers: Integers) -> Integers:
        left, right = (numbers >> half).astype(np.uint32), (numbers & int(low_bits)).astype(np.uint32)
        for table in tables:
            hashed = table[right]
            hashed ^= left
            left, right = right, hashed
        return (left.astype(np.int64) << half) | right

    for start in range(0, length, _AT_ONCE):
        numbers = network(np.arange(start, min(length, start + _AT_ONCE), dtype=np.int64))
        outside = np.flatnonzero(numbers >= length)
        while outside.size:
            numbers[outside] = network(numbers[outside])
            outside = outside[numbers[outside] >= length]
        yield numbers


def _sorted(length: int, key: int) -> Integers:
    order: Integers = np.argsort(_hashed(np.arange(length, dtype=np.uint64), _one(key)), kind="stable")
    return order


def _half(length: int) -> int:
    """Half the bits of a network for so many numbers."""
    return -(-(length - 1).bit_length() // 2)


def _one(key: int) -> NDArray[np.uint64]:
    return np.array([key], dtype=np.uint64)


def _walked(places: Integers, lengths: Integers, keys: Sequence[int], which: Integers) -> Integers:
    """(P,) -> (P,): numbers that leave their range go through the network again until they are inside."""
    # One permutation needs no number for each place.
    each: Any = which if len(keys) > 1 else slice(1)
    halves = np.array([_half(length) for length in lengths.tolist()], dtype=np.uint64)[each]
    rounds = np.array([[mix(key, number) for key in keys] for number in range(_ROUNDS)], dtype=np.uint64)[:, each]
    limits = lengths.astype(np.uint64)[each]
    numbers = _network(places.astype(np.uint64), halves, rounds)
    outside = np.flatnonzero(numbers >= limits)
    left = outside  # of those that were outside before
    while outside.size:
        if len(keys) > 1:
            halves, rounds, limits = halves[left], rounds[:, left], limits[left]
        again = _network(numbers[outside], halves, rounds)
        numbers[outside] = again
        left = np.flatnonzero(again >= limits)
        outside = outside[left]
    return numbers.astype(np.int64)


def _network(numbers: NDArray[np.uint64], halves: NDArray[np.uint64], rounds: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Six rounds: numbers (P,), half of their bits (P,) or (1,), a key for each round (6, P) or (6, 1) -> (P,)."""
    low_bits = (np.uint64(1) << halves) - np.uint64(1)
    left, right = numbers >> halves, numbers & low_bits
    for keys in rounds:
        hashed = _hashed(right, keys)
        hashed &= low_bits
        hashed ^= left
        left, right = right, hashed
    return (left << halves) | right


def _hashed(numbers: NDArray[np.uint64], keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Splitmix64 of each number, offset by a key; arithmetic modulo 2^64."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15)
    mixed += keys  # in place from here on: fresh memory would take as long as the arithmetic
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed
