"""`Surveys`: what is asked of a whole collection, the map and the duplicates; computed once as long as nothing changes."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np

from lightning_clip.applications.search.entries import Entry
from lightning_clip.applications.search.index import Hit, SearchIndex
from lightning_clip.applications.search.web.alike import ALL_PAIRS, Group, alike
from lightning_clip.applications.search.web.projection import mean_colour, project
from lightning_clip.applications.search.web.reading import Reading

__all__ = ["Surveys"]

_KEPT = 8  # answers that are not computed again
_SHOWN = 200, 50  # groups of duplicates, and pictures of each


class Surveys:
    """Maps and duplicates of an index; searches go on while they are computed.

    Args:
        reading: of the index.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading, self._computing = reading, Lock()
        self._known: dict[Any, dict[str, Any]] = {}

    def _once(self, name: tuple[str, float], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was computed before, if the collection is as it was then."""
        with self._computing:
            with self._reading():
                key = (*name, self._reading.changes)
            if key not in self._known:
                kept = [known for known in self._known if known[-1] == key[-1]][1 - _KEPT :]
                self._known = {known: self._known[known] for known in kept}
                self._known[key] = compute()
            return self._known[key]

    def map(self, most: int) -> dict[str, Any]:
        """Points of a map, [id, x, y, red, green, blue] each, and how many pictures they stand for.

        Args:
            most: points; of more pictures they are taken at equal distances.
        """
        return self._once(("map", most), lambda: self._drawn(most))

    def _drawn(self, most: int) -> dict[str, Any]:
        with self._reading() as index:
            numbers = index.numbers()
            chosen = numbers[np.unique(np.linspace(0, len(numbers) - 1, min(most, len(numbers))).astype(np.int64))]
            features = index.vectors.rows(chosen)  # (n, D)
        found = project(features)
        points = []
        for number, (x, y) in zip(chosen.tolist(), found.points.tolist(), strict=True):
            with self._reading() as index:  # for each anew, so that searches go on meanwhile
                small = index.entries.thumbnail(number)
            points.append([number, round(x, 4), round(y, 4), *mean_colour(small)])
        return {"points": points, "of": len(numbers), "explained": [round(share, 4) for share in found.explained]}

    def duplicates(self, threshold: float) -> dict[str, Any]:
        """Groups of pictures that are alike: `groups` of (first entry, [(entry, similarity)]), and whether all were compared.

        Args:
            threshold: cosine similarity, from 0 to 1; 1 finds the very same.
        """
        return self._once(("duplicates", threshold), lambda: self._compared(threshold))

    def _compared(self, threshold: float) -> dict[str, Any]:
        with self._reading() as index:
            numbers, copies = index.numbers(), index.entries.copies()

        def read(start: int, stop: int) -> np.ndarray:
            with self._reading() as index:
                return index.vectors.rows(numbers[start:stop])

        known = [np.intersect1d(same, numbers) for same in copies]  # a build may have taken one out since
        places = [np.searchsorted(numbers, same).tolist() for same in known if len(same) > 1]
        groups: list[Group] = alike(len(numbers), read, threshold, copies=places)
        with self._reading() as index:
            named = [self._named(index, numbers, group) for group in groups[: _SHOWN[0]]]
        repeated = sum(len(others) for _, others in groups)
        return {"groups": named, "count": len(groups), "repeated": repeated, "all_pairs": len(numbers) <= ALL_PAIRS}

    def _named(self, index: SearchIndex, numbers: np.ndarray, group: Group) -> tuple[Entry, list[Hit]]:
        first, others = group
        [entry, *found] = index.entries.get(numbers[[first, *(place for place, _ in others[: _SHOWN[1] - 1])]].tolist())
        return entry, [Hit(score, one) for one, (_, score) in zip(found, others, strict=False)]
