"""Pictures that are alike: groups around the first of each, by the similarity of their features."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["ALL_PAIRS", "Group", "alike"]

ALL_PAIRS = 20_000  # up to so many, all are compared with all
_WINDOW = 256  # beyond, each with so many that follow: bursts and copies stand close to each other
_BLOCK = 1024
# Place of the first picture, then (place, similarity to the first) of the others.
Group = tuple[int, list[tuple[int, float]]]


def alike(
    count: int,
    read: Callable[[int, int], np.ndarray],
    threshold: float,
    *,
    copies: Sequence[Sequence[int]] = (),
    all_pairs: int = ALL_PAIRS,
) -> list[Group]:
    """Groups of pictures that are at least so similar to the first of their group.

    In order, a picture joins the earliest first picture that is near enough, else it is a first one itself: a chain of small
    steps does not join what differs.

    Args:
        count: pictures N.
        read: unit features of the places [start, stop), float32 (n, D).
        threshold: cosine similarity, from 0 to 1.
        copies: places of pictures that are the very same, rising, a list for each; they are found however far apart.
        all_pairs: up to so many pictures all are compared, beyond only those that stand close to each other.

    Returns:
        Groups of at least two, the largest first.
    """
    leader = np.full(count, -1, np.int64)
    score = np.ones(count, np.float32)
    for same in copies:
        leader[list(same[1:])] = same[0]
    limit = min(threshold, 1 - 1e-4)  # features are kept in float16
    window = count if count <= all_pairs else _WINDOW
    held = _unit(read(0, count)) if window == count else None
    for start in range(0, count, _BLOCK):
        stop, end = min(start + _BLOCK, count), min(start + _BLOCK + window, count)
        rows = held[start:end] if held is not None else _unit(read(start, end))  # (B + W, D)
        products = rows[: stop - start] @ rows.T  # (B, D) @ (D, B + W) -> (B, B + W)
        for place in range(start, stop):
            if leader[place] >= 0:
                continue
            here = products[place - start, place - start + 1 : place - start + 1 + window]
            near = place + 1 + np.flatnonzero(here >= limit)
            near = near[leader[near] < 0]
            leader[near], score[near] = place, here[near - place - 1]
    return _grouped(leader, score)


def _grouped(leader: np.ndarray, score: np.ndarray) -> list[Group]:
    found: dict[int, list[tuple[int, float]]] = {}
    for place in np.flatnonzero(leader >= 0).tolist():
        first, similarity = int(leader[place]), float(score[place])
        while leader[first] >= 0:  # a copy of one that has joined another
            similarity, first = min(similarity, float(score[first])), int(leader[first])
        found.setdefault(first, []).append((place, min(similarity, 1.0)))
    return sorted(found.items(), key=lambda group: (-len(group[1]), group[0]))


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
