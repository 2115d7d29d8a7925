"""Vectors of an index: a graph that is read from its file, and a tail of rows behind it that is searched exactly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from lightning_clip.applications.search.stores.store import Home, best, vector_stores
from lightning_clip.core.atomic import beside, sync_entry
from lightning_clip.core.errors import InputError

__all__ = ["Vectors"]

_BLOCK = 1 << 16  # rows that are made float32 at a time
_GRAPH = "graph.usearch"
_GRAPH_FROM = 100_000  # rows that are searched exactly before a graph takes them up
_EXPANSION = 512  # candidates that are looked at for a query: recall for a millisecond or two


class Vectors:
    """Rows of float16 (N, D) in a folder, appended to and searched by inner product.

    New rows go to the tail, one flat file, and are searched exactly. `grow_graph` moves them into a graph (HNSW, by usearch),
    which is mapped into memory and searched approximately. Each row is in one of the two, so that the files hold it once.

    Args:
        folder: of the index.
        dim: width D.
        count: rows that are committed; what stands behind them in the tail comes from another writer, at work or killed.
        write: to append; cuts off what a killed writer left. Only one writer may be there, readers may be there beside it.
        graph_from: rows that are searched exactly before `settle` has a graph take them up; None never.

    Raises:
        InputError: fewer rows than that, a graph of another width, or a graph without usearch.
    """

    def __init__(
        self, folder: Path, dim: int, count: int, *, write: bool = False, graph_from: int | None = _GRAPH_FROM
    ) -> None:
        self.folder, self.dim, self.count, self._write = folder, dim, count, write
        self.graph_from = graph_from
        self.graph: Any = None
        self._mapped: np.ndarray = np.zeros((0, dim), np.float16)
        self._open()

    @property
    def in_tail(self) -> int:
        """Rows that are searched exactly."""
        return self.count - self.in_graph

    def append(self, rows: np.ndarray) -> None:
        """Adds rows, which are on the disk when this returns; they count once the caller has committed them.

        Args:
            rows: float16 (n, D).
        """
        with self._tail.open("ab") as file:
            file.write(np.ascontiguousarray(rows, dtype=np.float16).tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.count += len(rows)

    def cut(self, count: int) -> None:
        """Takes back rows that were appended and not committed.

        Args:
            count: rows that remain.
        """
        self.count = count
        if self._tail.exists() and self._tail.stat().st_size > self.in_tail * self.dim * 2:
            self._mapped = self._mapped[:0]
            os.truncate(self._tail, self.in_tail * self.dim * 2)

    def tail(self) -> np.ndarray:
        """The rows behind the graph, float16 (n, D), mapped into memory: a reader keeps them when a writer moves them on."""
        if len(self._mapped) != self.in_tail:
            self._mapped = np.memmap(self._tail, np.float16, "r", shape=(self.in_tail, self.dim))
        return self._mapped

    def rows(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """The vectors at some places.

        Args:
            places: of n rows.

        Returns:
            float32 (n, D).
        """
        chosen = np.asarray(places, np.int64)
        found = np.empty((len(chosen), self.dim), np.float32)
        old = chosen < self.in_graph
        if old.any():
            found[old] = np.stack(self.graph.get(chosen[old])).astype(np.float32)
        if not old.all():
            found[~old] = self.tail()[chosen[~old] - self.in_graph]
        return found

    def nearest(self, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows with the largest inner products.

        Args:
            query: float32 (D,).
            most: how many, at least 1.

        Returns:
            Places int64 and inner products float32, best first; of equal ones the earlier row.
        """
        places, scores = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        if self.in_graph:
            matches = self.graph.search(query, min(most, self.in_graph), threads=1)
            places.append(matches.keys.astype(np.int64))
            scores.append(1 - matches.distances.astype(np.float32))
        tail = self.tail()
        for start in range(0, len(tail), _BLOCK):
            products = _products(tail[start : start + _BLOCK], query)
            found = products.topk(min(most, len(products)))
            places.append(found.indices.numpy() + start + self.in_graph)
            scores.append(found.values.numpy())
        return best(np.concatenate(places), np.concatenate(scores), most)

    def nearest_of(self, places: np.ndarray, query: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """As `nearest`, exactly and among some rows alone.

        Args:
            places: of the rows.
            query: float32 (D,).
            most: how many, at least 1.
        """
        scores = [np.zeros(0, np.float32)]
        for start in range(0, len(places), _BLOCK):
            scores.append(self.rows(places[start : start + _BLOCK]) @ query)
        return best(places, np.concatenate(scores), most)

    def settle(self) -> None:
        """Grows the graph where the tail is long: a tenth of the graph, and `graph_from` rows."""
        if self.graph_from is not None and self.in_tail >= max(self.graph_from, self.in_graph // 10):
            self.grow_graph()

    def about(self) -> str:
        """How many rows are searched in which way."""
        return f"files: {self.in_tail:,} searched exactly, {self.in_graph:,} by the graph"

    def close(self) -> None:
        """Lets go of the files that are mapped into memory."""
        self.graph = None
        self._mapped = self._mapped[:0]

    def grow_graph(self, connectivity: int = 16, expansion: int = 128, stage: int = 1 << 18) -> None:
        """Moves the tail into the graph, a stage after the other; a killed process leaves the graph of the last whole stage.

        Args:
            connectivity: links of a row.
            expansion: candidates that are looked at for each new row.
            stage: rows after which the graph is written, at least 1.

        Raises:
            InputError: usearch is missing.
        """
        if not self.in_tail:
            return
        index = _usearch().Index(ndim=self.dim, metric="ip", dtype="f16", connectivity=connectivity)
        if self.in_graph:
            index.load(str(self.folder / _GRAPH))
        index.expansion_add = expansion  # a loaded graph has the library's own
        with Progress() as bar:
            task = bar.add_task("building the graph", total=self.in_tail)
            before = 0

            def advance(done, of):  # type: ignore[no-untyped-def]
                bar.update(task, completed=before + done)
                return True

            advance.__annotations__ = {"done": int, "of": int, "return": bool}  # usearch asks for types, not their names
            while self.in_tail:
                rows, start = np.asarray(self.tail()), self.in_graph
                taken = min(stage, len(rows))
                index.add(np.arange(start, start + taken), rows[:taken], progress=advance)
                self._commit(index, start + taken, rows[taken:])
                before += taken

    def _commit(self, index: Any, count: int, rest: np.ndarray) -> None:
        """The graph with its first `count` rows takes the old one's place; its tail is there before it, so that it has one."""
        if len(rest):
            with beside(self.folder / f"tail-{count}.f16", durable=True) as place:
                rest.tofile(place)
        with beside(self.folder / _GRAPH, durable=True) as place:
            index.save(str(place))
        self._open()
        sync_entry(self.folder)

    def _open(self) -> None:
        """Opens the graph and its tail."""
        self.graph = _opened(self.folder / _GRAPH, self.dim)
        self.in_graph = 0 if self.graph is None else len(self.graph)
        if not self._write:
            self.count = max(self.count, self.in_graph)  # a writer has moved rows on since they were counted
        self._tail = self.folder / f"tail-{self.in_graph}.f16"
        self._mapped = self._mapped[:0]
        size = self._tail.stat().st_size if self._tail.exists() else 0
        wanted = self.in_tail * self.dim * 2
        if self.in_tail < 0 or size < wanted:
            raise InputError(
                f"index {str(self.folder)!r} is damaged: it has {self.in_graph + size // (2 * self.dim):,} vectors for "
                f"{self.count:,} pictures. Build it again"
            )
        if self._write:
            self.cut(self.count)
            for other in self.folder.glob("tail-*.f16"):  # a graph has taken them up
                if other != self._tail:
                    other.unlink()
        self.tail()


@vector_stores.register("files")
def files(home: Home, count: int, *, write: bool = False) -> Vectors:
    """Exact search up to 100,000 rows, a graph above."""
    return _at_home(home, count, write, _GRAPH_FROM)


@vector_stores.register("exact")
def exact(home: Home, count: int, *, write: bool = False) -> Vectors:
    """Exact search however many rows there are; a graph that is there already stays."""
    return _at_home(home, count, write, None)


@vector_stores.register("usearch")
def usearch(home: Home, count: int, *, write: bool = False) -> Vectors:
    """A graph from the first row on."""
    if write:
        _usearch()  # missing, it is missed before pictures are looked at
    return _at_home(home, count, write, 1)


def _at_home(home: Home, count: int, write: bool, graph_from: int | None) -> Vectors:
    if home.address:
        raise InputError(f"vectors in files stand in the index's own folder: leave {home.address!r} out of --store")
    return Vectors(home.folder, home.dim, count, write=write, graph_from=graph_from)


def _products(rows: np.ndarray, query: np.ndarray) -> torch.Tensor:
    """float16 (n, D) and float32 (D,) -> inner products float32 (n,)."""
    return torch.from_numpy(np.array(rows)).float() @ torch.from_numpy(np.asarray(query, np.float32))


def _opened(path: Path, dim: int) -> Any | None:
    """The graph, mapped into memory; None where there is none."""
    if not path.exists():
        return None
    library = _usearch()
    try:
        index = library.Index.restore(str(path), view=True)
    except (ValueError, RuntimeError):
        index = None
    if index is None or index.ndim != dim:
        raise InputError(f"index {str(path.parent)!r} is damaged: its graph cannot be read. Build it again")
    index.expansion_search = _EXPANSION
    return index


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise InputError('the graph of an index needs usearch: pip install "lightning-clip[search]"') from error
    return usearch.index
