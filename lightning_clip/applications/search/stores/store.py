"""`VectorStore`: what keeps the vectors of an index; a further one is a file that registers a name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.data.shards.addresses import shown

__all__ = ["DEFAULT_STORE", "Home", "VectorStore", "best", "open_store", "settled", "vector_stores"]

DEFAULT_STORE = "files"


class Home(NamedTuple):
    """What a store is told of its index.

    Attributes:
        folder: of the index.
        dim: width D of a vector.
        owner: of the index alone, so that two never write to one place.
        model: that made the vectors, as `model_identity` tells it.
        address: behind the store's name, such as a URL; empty where none was given.
    """

    folder: Path
    dim: int
    owner: str = ""
    model: str = ""
    address: str = ""


class VectorStore(Protocol):
    """Rows (N, D) by their numbers 0 to N - 1, appended to and searched by inner product.

    It is built with (home, count, write): a `Home`, the rows that are committed, and whether rows will be appended, of which
    one process at a time is sure. What stands behind `count` comes from another writer, at work or killed: a reader does not
    find it, a writer takes it out.

    Attributes:
        count: rows that can be found.
    """

    count: int

    def append(self, rows: np.ndarray) -> None:
        """Adds rows float16 (n, D), which are kept for good when this returns; they count once the caller commits them."""

    def cut(self, count: int) -> None:
        """Takes back rows that were appended and not committed, until `count` remain."""

    def rows(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors at n places, float32 (n, D)."""

    def nearest(self, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The places (int64) with the largest inner products with a query float32 (D,), and these, best first.

        Of equal ones the earlier row comes first. There are `most` of them unless the store has fewer.
        """

    def nearest_of(self, places: np.ndarray, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, exactly and among some places alone."""

    def settle(self) -> None:
        """Called after each build: the time to build a graph, or to tidy up."""

    def about(self) -> str:
        """A line for `index info`: what it is, and how it is searched."""

    def close(self) -> None:
        """Closes what it holds open."""


vector_stores: Registry[VectorStore] = Registry("vector store")


def settled(spec: str) -> str:
    """What an index remembers of a store: NAME or NAME:ADDRESS, a local folder from the root.

    Raises:
        InputError: no such store, or an address that holds a password.

    Examples:
        >>> settled("qdrant:http://localhost:6333/photos")
        'qdrant:http://localhost:6333/photos'
        >>> settled("qdrant:http://me:word@localhost:6333/photos")
        Traceback (most recent call last):
        lightning_clip.core.errors.InputError: --store 'qdrant:http://localhost:6333/photos' holds a user or password, ...
    """
    name, _, address = spec.partition(":")
    if shown(address) != address:
        raise InputError(
            f"--store {f'{name}:{shown(address)}'!r} holds a user or password, which would be kept in the index: leave it out, "
            "and set QDRANT_API_KEY or the variables of your object storage"
        )
    vector_stores.factory(name)
    if address and "://" not in address:
        address = str(Path(address).expanduser().resolve())
    return f"{name}:{address}" if address else name


def open_store(spec: str, home: Home, count: int, *, write: bool = False) -> VectorStore:
    """Opens what keeps an index's vectors.

    Args:
        spec: NAME or NAME:ADDRESS.
        home: of the index; its address is that of `spec`.
        count: rows that are committed.
        write: to append; one process alone.

    Raises:
        InputError: no such store, its library is missing, it cannot be reached, or it holds something else.
    """
    name, _, address = spec.partition(":")
    opened: VectorStore = vector_stores.factory(name)(home._replace(address=address), count, write=write)
    return opened


def best(places: np.ndarray, scores: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The `most` places with the largest scores, best first; of equal ones the earlier.

    Examples:
        >>> best(np.array([4, 1, 7]), np.array([0.5, 0.5, 0.9]), 2)[0].tolist()
        [7, 1]
    """
    order = np.lexsort((places, -scores))[:most]
    return places[order], scores[order]
