"""`DatabaseVectors`: what stores in a database have in common; each says only how it puts, finds, gives and deletes rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_clip.applications.search.stores.store import Home, best
from lightning_clip.core.errors import InputError

__all__ = ["DatabaseVectors", "Owner"]

_BLOCK = 1024  # rows of a request
_AMONG = 4096  # places that a search is kept to at a time
_SPARE = 32  # more candidates than asked for: a database rounds its scores, and neighbours may change places


class Owner(NamedTuple):
    """Whose vectors a database holds.

    Attributes:
        whose: `Home.owner`.
        model: `Home.model`.
    """

    whose: str
    model: str


class DatabaseVectors(ABC):
    """Rows in a table or collection of a database, which belongs to one index.

    The database proposes candidates; their products are computed from its vectors here, so that scores and order do not depend
    on how it rounds.

    Args:
        home: of the index.
        count: rows that are committed.
        write: to append.

    Raises:
        InputError: it cannot be reached, is another index's, another model's or another width's, or has lost rows.
    """

    def __init__(self, home: Home, count: int, *, write: bool = False) -> None:
        self.home, self.count = home, count
        self.connect(write)
        try:
            self._check(write)
        except BaseException:
            self.close()
            raise

    def _check(self, write: bool) -> None:
        width, held = self.width(), self.held()
        if width != self.home.dim:
            raise InputError(f"{self.name()} holds vectors of width {width}, the model gives {self.home.dim}: {_ANOTHER}")
        found = self.owner() if held else None
        if found is not None and found != Owner(self.home.owner, self.home.model):
            what = "another index" if found.model == self.home.model else "another model"
            raise InputError(f"{self.name()} holds the vectors of {what}: {_ANOTHER}")
        if held < self.count:
            raise InputError(
                f"index {str(self.home.folder)!r} is damaged: {self.name()} has {held:,} vectors for {self.count:,} pictures. "
                "Build it again"
            )
        if write and held > self.count:  # a killed writer's
            self.drop_from(self.count)

    # -- what each database says ------------------------------------------------------------------------------------

    @abstractmethod
    def connect(self, write: bool) -> None:
        """Opens the database; makes table or collection where there is none and `write` is set."""

    @abstractmethod
    def name(self) -> str:
        """Of table or collection and its place, for errors; without secrets."""

    @abstractmethod
    def width(self) -> int:
        """Of its vectors."""

    @abstractmethod
    def owner(self) -> Owner | None:
        """Whose vectors it holds, asked when there are some; None where it does not say."""

    @abstractmethod
    def held(self) -> int:
        """Rows, those that are not committed too."""

    @abstractmethod
    def put(self, places: range, rows: np.ndarray) -> None:
        """Adds float16 (n, D); with the owner's name, where it goes into the first row."""

    @abstractmethod
    def drop_from(self, count: int) -> None:
        """Deletes the rows from this place on."""

    @abstractmethod
    def near(self, query: np.ndarray, most: int, among: list[int] | None) -> list[int]:
        """Places of about the nearest rows, among some alone where these are given."""

    @abstractmethod
    def given(self, places: list[int]) -> tuple[Sequence[int], np.ndarray]:
        """Places in any order and their vectors (n, D), of those that are there."""

    # -- what follows from it ---------------------------------------------------------------------------------------

    def append(self, rows: np.ndarray) -> None:
        """As `VectorStore.append`: in blocks, each of them kept when it is sent."""
        for start in range(0, len(rows), _BLOCK):
            block = np.ascontiguousarray(rows[start : start + _BLOCK], dtype=np.float16)
            self.put(range(self.count, self.count + len(block)), block)
            self.count += len(block)

    def cut(self, count: int) -> None:
        """As `VectorStore.cut`."""
        self.drop_from(count)
        self.count = count

    def rows(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors at n places, float32 (n, D); each is asked for once.

        Raises:
            InputError: the database has lost some.
        """
        chosen = np.asarray(places, np.int64)
        found = np.empty((len(chosen), self.home.dim), np.float32)
        for start in range(0, len(chosen), _BLOCK):
            block = chosen[start : start + _BLOCK]
            ids, vectors = self.given(np.unique(block).tolist())
            order = np.argsort(ids)
            known = np.asarray(ids, np.int64)[order]  # rising
            at = np.searchsorted(known, block)
            if len(known) != len(np.unique(block)):
                raise InputError(f"index {str(self.home.folder)!r} is damaged: {self.name()} has lost vectors. Build it again")
            found[start : start + _BLOCK] = vectors[order[at]]
        return found

    def nearest(self, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorStore.nearest`, among the candidates of the database; more are asked for until enough are committed."""
        asked = most + _SPARE
        while True:
            ids = self.near(query, asked, None)
            mine = np.array([place for place in ids if place < self.count], np.int64)  # others wait to be committed
            if len(mine) >= most or len(ids) < asked:
                return self._scored(mine, query, most)
            asked *= 4

    def nearest_of(self, places: np.ndarray, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As `VectorStore.nearest_of`, exactly, a few thousand places a request."""
        found = [np.zeros(0, np.int64)]
        for start in range(0, len(places), _AMONG):
            found.append(np.array(self.near(query, most + _SPARE, places[start : start + _AMONG].tolist()), np.int64))
        return self._scored(np.concatenate(found), query, most)

    def _scored(self, places: np.ndarray, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        return best(places, self.rows(places) @ np.asarray(query, np.float32), most)

    def settle(self) -> None:  # noqa: B027 - a database may have nothing to do
        """Nothing, where the database sees to its indexes itself."""

    def about(self) -> str:
        """A line for `index info`."""
        return f"{self.name()}, searched by the database"

    def close(self) -> None:  # noqa: B027
        """Nothing, where no connection is held."""


_ANOTHER = "give another --store, or delete this one if nobody needs it"
