"""Orders of samples as plain loops over places, in Python's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lightning_clip.data.mixing_order import shares
from lightning_clip.data.permutation import mix

WORD = (1 << 64) - 1


def hashed(number: int, key: int) -> int:
    """Splitmix64."""
    mixed = (number * 0x9E3779B97F4A7C15 + key) & WORD
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
    return mixed ^ (mixed >> 31)


def permuted(place: int, length: int, key: int, sorted_up_to: int) -> int:
    """One number of a permutation: from sorted hashes for a short one, else by a Feistel network and its walk."""
    if length <= sorted_up_to:
        return sorted(range(length), key=lambda number: hashed(number, key))[place]
    half = -(-(length - 1).bit_length() // 2)
    low_bits, number = (1 << half) - 1, place
    while True:
        left, right = number >> half, number & low_bits
        for step in range(6):
            left, right = right, left ^ (hashed(right, mix(key, step)) & low_bits)
        number = (left << half) | right
        if number < length:
            return number


def shuffled(length: int, seed: int, sorted_up_to: int) -> Callable[[int, int], int]:
    """Epoch and place -> sample."""
    return lambda epoch, place: permuted(place, length, mix(seed, epoch, 0), sorted_up_to)


def windowed(counts: Sequence[int], window: int, seed: int, sorted_up_to: int) -> Callable[[int, int], int]:
    """Shards in a drawn order; the samples of each window of shards in another."""

    def at(epoch: int, place: int) -> int:
        shards = [permuted(number, len(counts), mix(seed, epoch, 0), sorted_up_to) for number in range(len(counts))]
        begin = 0
        for number in range(0, len(shards), window):
            samples = [
                sum(counts[:shard]) + within for shard in shards[number : number + window] for within in range(counts[shard])
            ]
            if place < begin + len(samples):
                key = mix(seed, epoch, 1 + number // window)
                return samples[permuted(place - begin, len(samples), key, sorted_up_to)]
            begin += len(samples)
        raise IndexError(place)

    return at


def mixture(
    orders: Sequence[Callable[[int, int], int]],
    lengths: Sequence[int],
    spans: Sequence[tuple[int, int, Sequence[float]]],
    seed: int,
    sorted_up_to: int,
) -> Callable[[int], list[tuple[int, int]]]:
    """Epoch -> sample and pass at each place; spans are first place, end and weights."""

    def of(epoch: int) -> list[tuple[int, int]]:
        found, used = [], [0] * len(orders)
        for low, high, weights in spans:
            run = [number for number, share in enumerate(shares(weights, high - low).tolist()) for _ in range(share)]
            for place in range(high - low):
                source = run[permuted(place, high - low, mix(seed, epoch, low), sorted_up_to)]
                again, rank = divmod(used[source], lengths[source])
                used[source] += 1
                sample = orders[source](mix(epoch, again) if again else epoch, rank)
                found.append((sum(lengths[:source]) + sample, again))
        return found

    return of
