"""Permutations that need no memory: the numbers at any places, computed from a key."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Integers", "mix", "permuted"]

Integers = NDArray[np.int64]
_SORTED = 1 << 14  # up to this length the order comes from sorting hashes; a network over so few bits would mix badly
_ROUNDS = 6


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
        order: Integers = np.argsort(_hashed(np.arange(length, dtype=np.uint64), key), kind="stable")
        return order[places]
    half = -(-(length - 1).bit_length() // 2)
    numbers = _network(places.astype(np.uint64), half, key)
    outside = np.flatnonzero(numbers >= length)
    while outside.size:
        numbers[outside] = _network(numbers[outside], half, key)
        outside = outside[numbers[outside] >= length]
    return numbers.astype(np.int64)


def _network(numbers: NDArray[np.uint64], half: int, key: int) -> NDArray[np.uint64]:
    low_bits, shift = np.uint64((1 << half) - 1), np.uint64(half)
    left, right = numbers >> shift, numbers & low_bits
    for number in range(_ROUNDS):
        left, right = right, left ^ (_hashed(right, mix(key, number)) & low_bits)
    return (left << shift) | right


def _hashed(numbers: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Splitmix64 of each number, offset by the key; arithmetic modulo 2^64."""
    mixed = numbers * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
