"""Vectors in a LanceDB table: in a folder, or on object storage, read from there as they are needed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np

from lightning_clip.applications.search.stores.database import DatabaseVectors, Owner
from lightning_clip.applications.search.stores.store import vector_stores
from lightning_clip.core.errors import InputError

__all__ = ["LanceVectors"]

_TABLE = "vectors"
_INDEX_FROM = 100_000  # rows that are searched exactly before the table gets an index
_PROBES, _REFINE = 64, 8  # partitions that are read for a query; candidates by codes for each that is asked for
_OLD = timedelta(hours=1)  # readers hold a version of the table: those of the last hour are kept


@vector_stores.register("lancedb")
class LanceVectors(DatabaseVectors):
    """Rows of float16 in the table `vectors` of a LanceDB database; from 100,000 rows on it has an index (IVF-PQ).

    The address is a folder or such as `s3://bucket/photos`, whose credentials are the usual variables of the object storage;
    without one it is `vectors.lance` in the folder of the index. Needs the extra `lancedb`.
    """

    def connect(self, write: bool) -> None:
        lancedb, pyarrow = _libraries()
        self._where = self.home.address or str(self.home.folder / "vectors.lance")
        vector = pyarrow.list_(pyarrow.float16(), self.home.dim)
        marks = {"index": self.home.owner, "model": self.home.model}
        fields = [pyarrow.field("id", pyarrow.int64()), pyarrow.field("vector", vector)]
        self._schema = pyarrow.schema(fields, metadata=marks)
        with self._told():
            database = lancedb.connect(self._where)
            try:
                self._table = database.open_table(_TABLE)
            except ValueError:  # there is none
                if not write:
                    raise
                self._table = database.create_table(_TABLE, schema=self._schema)

    def name(self) -> str:
        return f"LanceDB table {_TABLE!r} in {self._where}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the library's in one line, without places in its source."""
        try:
            yield
        except (ValueError, RuntimeError, OSError) as error:
            told = re.sub(r",? */[^ ]*\.rs:\d+(:\d+)?", "", str(error)).strip()
            raise InputError(f"{self.name()} cannot be used: {(told or repr(error)).splitlines()[0][:300]}") from error

    def width(self) -> int:
        return int(getattr(self._table.schema.field("vector").type, "list_size", 0))

    def owner(self) -> Owner | None:
        marks = {key.decode(): value.decode() for key, value in (self._table.schema.metadata or {}).items()}
        return Owner(marks.get("index", ""), marks.get("model", ""))

    def held(self) -> int:
        with self._told():
            return int(self._table.count_rows())

    def put(self, places: range, rows: np.ndarray) -> None:
        _, pyarrow = _libraries()
        vectors = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), self.home.dim)
        with self._told():
            self._table.add(pyarrow.table({"id": np.arange(places.start, places.stop), "vector": vectors}, schema=self._schema))

    def drop_from(self, count: int) -> None:
        with self._told():
            self._table.delete(f"id >= {count}")

    def near(self, query: np.ndarray, most: int, among: list[int] | None) -> list[int]:
        asked = self._table.search(np.asarray(query, np.float32), vector_column_name="vector").distance_type("dot")
        if among is not None:
            asked = asked.where(_one_of(among), prefilter=True).bypass_vector_index()
        elif self._indexed():
            asked = asked.nprobes(_PROBES).refine_factor(_REFINE)
        with self._told():
            return [int(place) for place in asked.select(["id", "_distance"]).limit(most).to_arrow()["id"].to_pylist()]

    def given(self, places: list[int]) -> tuple[Sequence[int], np.ndarray]:
        if not places:
            return [], np.zeros((0, self.home.dim), np.float16)
        with self._told():
            found = self._table.search().where(_one_of(places)).limit(len(places)).to_arrow()
        vectors = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return found["id"].to_pylist(), vectors.reshape(-1, self.home.dim)

    def settle(self) -> None:
        """Joins small files, and gives a large table its indexes, or takes new rows up into them."""
        with self._told():
            if self.count >= _INDEX_FROM and not self._indexed():
                from lancedb.index import BTree, IvfPq

                codes = self.home.dim // 8 if self.home.dim % 8 == 0 else None  # bytes a row: 16 times less than the row
                self._table.create_index("vector", config=IvfPq(distance_type="dot", num_sub_vectors=codes))
                self._table.create_index("id", config=BTree())
            self._table.optimize(cleanup_older_than=_OLD)

    def _indexed(self) -> bool:
        return any("vector" in found.columns for found in self._table.list_indices())

    def about(self) -> str:
        how = "by its index, new rows exactly" if self._indexed() else "exactly"
        return f"{self.name()}, searched {how}"


def _one_of(places: list[int]) -> str:
    return f"id IN ({', '.join(map(str, places))})"


def _libraries() -> Any:
    try:
        import lancedb
        import pyarrow
    except ImportError as error:
        raise InputError('--store lancedb needs LanceDB: pip install "lightning-clip[lancedb]"') from error
    return lancedb, pyarrow
