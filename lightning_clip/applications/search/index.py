"""`SearchIndex`: pictures found by words, by other pictures, or by both."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_clip.applications.search.entries import Entries, Entry
from lightning_clip.applications.search.stores import DEFAULT_STORE, Home, VectorStore, open_store, settled
from lightning_clip.core.errors import InputError
from lightning_clip.data.sources.video_pictures import video_of
from lightning_clip.model.identity import model_identity
from lightning_clip.model.predictor import Predictor

__all__ = ["Hit", "SearchIndex"]

_FORMAT = 1
_ENTRIES = "entries.sqlite"
_FILES = {"files", "exact", "usearch"}  # which of them, a later build may change


class Hit(NamedTuple):
    """A picture that was found.

    Attributes:
        score: cosine similarity to the query, from -1 to 1.
        entry: what is known of it.
    """

    score: float
    entry: Entry


class SearchIndex:
    """An index in a folder.

    Args:
        path: of the folder, as `build_index` wrote it.

    Raises:
        InputError: no index there, or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).expanduser()
        if not (self.path / _ENTRIES).is_file():
            raise InputError(f"{str(path)!r} is no index: build one with lightning-clip index build --output {path}")
        self._open()

    @classmethod
    @contextmanager
    def opened_for_writing(
        cls, path: Path, predictor: Predictor, model: str | Predictor, store: str | None = None
    ) -> Iterator[SearchIndex]:
        """An index to add to, made where there is none.

        Args:
            path: of the folder.
            predictor: whose features it holds.
            model: by which name it is opened again, if it has one.
            store: where its vectors are kept, NAME or NAME:ADDRESS of `vector_stores`; None is where they are, or `files`.

        Raises:
            InputError: an index of another model, or one whose vectors are kept elsewhere.
        """
        chosen = None if store is None else settled(store)
        index = cls.__new__(cls)
        index.path = path
        path.mkdir(parents=True, exist_ok=True)
        identity = identity_of(predictor)
        entries = Entries(path / _ENTRIES, write=True)
        if entries.fact("format") is None:
            with entries.transaction():
                entries.set_fact("format", _FORMAT)
                entries.set_fact("identity", identity)
                entries.set_fact("model", model if isinstance(model, str) else None)
                entries.set_fact("dim", predictor.model.embed_dim)
                entries.set_fact("owner", uuid.uuid4().hex)
        entries.close()
        index._open(write=True, store=chosen, identity=identity)
        try:
            yield index
        finally:
            index.close()

    def _open(self, *, write: bool = False, store: str | None = None, identity: str | None = None) -> None:
        self.entries = Entries(self.path / _ENTRIES, write=write)
        try:
            self._open_vectors(write, store, identity)
        except BaseException:
            self.entries.close()
            raise

    def _open_vectors(self, write: bool, store: str | None, identity: str | None) -> None:
        try:
            written = self.entries.fact("format")
        except sqlite3.DatabaseError as error:
            raise InputError(f"index {str(self.path)!r} is damaged: {error} ({_ENTRIES}). Build it again") from error
        if written is None:
            raise InputError(f"index {str(self.path)!r} has only just been begun: try again when its first pictures are in it")
        if written != _FORMAT:
            raise InputError(f"index {str(self.path)!r} was written by another version of lightning_clip: build it again")
        self.dim = int(self.entries.fact("dim"))
        if identity is not None:
            self._check_identity(identity)
        count, kept = len(self.entries), self.store
        if store is not None and count and store != kept and not {store, kept} <= _FILES:
            raise InputError(
                f"index {str(self.path)!r} keeps its vectors in {kept!r}, not in {store!r}: omit --store, or build another one"
            )
        home = Home(self.path, self.dim, self.entries.fact("owner") or "", self.entries.fact("identity"))
        self.vectors: VectorStore = open_store(store or kept, home, count, write=write)
        if store is not None and store != kept:
            self.entries.set_fact("store", store)
        self._gone = set(self.entries.gone().tolist())

    def close(self) -> None:
        """Closes its files."""
        self.entries.close()
        self.vectors.close()

    @contextmanager
    def adding(self) -> Iterator[None]:
        """What is appended and written in the block is in the index afterwards, or none of it."""
        before = self.vectors.count
        try:
            with self.entries.transaction():
                yield
        except BaseException:
            self.vectors.cut(before)
            raise

    @property
    def model(self) -> str | None:
        """What `open_predictor` opens to search it; None where it was built with an object."""
        found = self.entries.fact("model")
        return None if found is None else str(found)

    @property
    def store(self) -> str:
        """Where its vectors are kept, NAME or NAME:ADDRESS."""
        return str(self.entries.fact("store") or DEFAULT_STORE)

    def check_model(self, predictor: Predictor) -> None:
        """Refuses another model than the one that built it.

        Raises:
            InputError: weights, vocabulary or preprocessing differ.
        """
        self._check_identity(identity_of(predictor))

    def _check_identity(self, identity: str) -> None:
        if identity != self.entries.fact("identity"):
            name = f" ({self.model})" if self.model else ""
            raise InputError(
                f"index {str(self.path)!r} was built with another model{name}: search it with that one, or build it again"
            )

    def pictures(self) -> int:
        """How many pictures can be found."""
        return self.vectors.count - len(self.entries.gone())

    def numbers(self) -> np.ndarray:
        """Ids of all pictures that can be found, int64, rising."""
        return np.setdiff1d(
            np.arange(self.vectors.count), np.fromiter(self._gone, np.int64, len(self._gone)), assume_unique=True
        )

    def search(self, query: np.ndarray, most: int = 10, words: str = "") -> list[Hit]:
        """The pictures that are most like a query, best first, each once.

        Args:
            query: unit vector float32 (D,), such as `Query.vector` gives.
            most: how many, at least 1.
            words: only pictures whose captions have all these words; one that ends in * stands for all that begin so.

        Raises:
            InputError: `words` without a word.
        """
        chosen = None
        if words:
            chosen = self.entries.with_words(words)
            chosen = chosen[~np.isin(chosen, self.entries.gone())]
        asked = most
        while True:  # more are asked for until enough are left
            if chosen is None:
                places, scores = self.vectors.nearest(query, asked)
            else:
                places, scores = self.vectors.nearest_of(chosen, query, asked)
            hits = self._distinct(places, scores)
            if len(hits) >= most or len(places) < asked:
                return hits[:most]
            asked *= 4

    def _distinct(self, places: np.ndarray, scores: np.ndarray) -> list[Hit]:
        """What can be found, each picture once, whatever the number of names that it has, and each video by its best frame."""
        score_of = {
            place: score for place, score in zip(places.tolist(), scores.tolist(), strict=True) if place not in self._gone
        }
        found: dict[Any, Hit] = {}
        for entry in self.entries.get(list(score_of)):
            found.setdefault(_thing(entry), Hit(score_of[entry.id], entry))
        return list(found.values())

    def words(self, text: str, most: int = 10) -> list[Hit]:
        """Pictures by their captions alone, of a video its first frame; the score is 0.

        Args:
            text: as for `search`.
            most: how many, at least 1.
        """
        places = [number for number in self.entries.with_words(text).tolist() if number not in self._gone]
        found: dict[Any, Hit] = {}
        for start in range(0, len(places), 500):
            for entry in self.entries.get(places[start : start + 500]):
                video = video_of(entry.key)
                found.setdefault(entry.id if video is None else (entry.source, video), Hit(0.0, entry))
            if len(found) >= most:
                break
        return list(found.values())[:most]

    def vectors_of(self, numbers: Sequence[int]) -> np.ndarray:
        """Unit features of pictures by their ids, float32 (n, D).

        Raises:
            InputError: an id that the index does not have.
        """
        for number in numbers:
            if not 0 <= number < self.vectors.count or number in self._gone:
                raise InputError(f"index {str(self.path)!r} has no picture {number}")
        return self.vectors.rows(list(numbers))


def _thing(entry: Entry) -> Any:
    """What an entry shows: a picture by its digest, or a video, of which it is a frame."""
    video = video_of(entry.key)
    return entry.digest if video is None else (entry.source, video)


def identity_of(predictor: Predictor) -> str:
    """What tells the features of a model from those of another."""
    return model_identity(predictor.model, predictor.transform, predictor.text_settings())
