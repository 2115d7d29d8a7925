"""Vectors in a collection of a Qdrant server, which several machines can share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from lightning_clip.applications.search.stores.database import DatabaseVectors, Owner
from lightning_clip.applications.search.stores.store import vector_stores
from lightning_clip.core.errors import InputError
from lightning_clip.data.shards.addresses import shown

__all__ = ["KEY", "QdrantVectors"]

KEY = "QDRANT_API_KEY"
_PORT = 6333
_TIMEOUT = 30  # seconds of a request
_EXPANSION = 512  # candidates that are looked at for a query, as in the graph of the files
_SENT = 128  # rows of a request: a server takes 32 MB
_FORM = "qdrant:http://localhost:6333/photos"


@vector_stores.register("qdrant")
class QdrantVectors(DatabaseVectors):
    """Rows of float16 in a collection, by inner product; the server builds and updates its graph itself.

    The address is a server's URL with the name of the collection behind it, such as `http://localhost:6333/photos`; the key
    of a server that asks for one is taken from the variable `QDRANT_API_KEY`. Needs the extra `qdrant`.
    """

    def connect(self, write: bool) -> None:
        client, self._models = _library()
        self._server, self._collection, prefix = _parts(self.home.address)
        self._client = client(
            url=self._server,
            port=None,
            prefix=prefix,
            api_key=os.environ.get(KEY),
            timeout=_TIMEOUT,
            check_compatibility=False,  # it would ask, and warn, before the first request
        )
        with self._told():
            there = self._client.collection_exists(self._collection)
        if there:
            return
        if not write:
            raise InputError(f"{self.name()} is not there any more: build the index again")
        kind = self._models.VectorParams(
            size=self.home.dim, distance=self._models.Distance.DOT, datatype=self._models.Datatype.FLOAT16
        )
        with self._told():
            self._client.create_collection(self._collection, vectors_config=kind)

    def name(self) -> str:
        return f"Qdrant collection {self._collection!r} at {self._server}"

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An error of the connection or the server's in one line."""
        from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

        try:
            yield
        except ResponseHandlingException as error:
            why = str(error).strip() or type(error.source).__name__
            if "timed out" in why.lower() or "timeout" in type(error.source).__name__.lower():
                why = f"no answer within {_TIMEOUT} seconds"
            raise InputError(f"{self.name()} cannot be reached: {why.splitlines()[0][:200]}. Is the server running?") from error
        except ValueError as error:  # no JSON, or JSON of another kind
            raise InputError(f"{self._server} does not answer as a Qdrant server: is {self.home.address!r} one?") from error
        except UnexpectedResponse as error:
            if error.status_code in (401, 403):
                raise InputError(f"{self.name()} asks for a key ({error.status_code}): set {KEY}") from error
            said = error.content.decode("utf-8", "replace").split("\n")[0][:200]
            raise InputError(f"{self.name()} answered {error.status_code} {error.reason_phrase}: {said}") from error

    def width(self) -> int:
        with self._told():
            found = self._client.get_collection(self._collection).config.params.vectors
        return int(getattr(found, "size", 0) or 0)  # collections of several vectors have a mapping

    def owner(self) -> Owner | None:
        with self._told():
            first = self._client.retrieve(self._collection, ids=[0], with_payload=True)
        marks = (first[0].payload or {}) if first else {}
        return Owner(str(marks.get("index", "")), str(marks.get("model", "")))

    def held(self) -> int:
        with self._told():
            return int(self._client.count(self._collection, exact=True).count)

    def put(self, places: range, rows: np.ndarray) -> None:
        for start in range(0, len(rows), _SENT):
            block = rows[start : start + _SENT].astype(np.float32)
            ids = list(places[start : start + len(block)])
            marks = {"index": self.home.owner, "model": self.home.model}
            payloads = [marks if place == 0 else {} for place in ids]  # the first row says whose the collection is
            batch = self._models.Batch(ids=ids, vectors=block.tolist(), payloads=payloads)
            with self._told():
                self._client.upsert(self._collection, points=batch, wait=True)

    def drop_from(self, count: int) -> None:
        while True:  # a scroll goes through numbers in their order
            with self._told():
                found, _ = self._client.scroll(
                    self._collection, offset=count, limit=1000, with_payload=False, with_vectors=False
                )
                if not found:
                    return
                chosen = self._models.PointIdsList(points=[point.id for point in found])
                self._client.delete(self._collection, points_selector=chosen, wait=True)

    def near(self, query: np.ndarray, most: int, among: list[int] | None) -> list[int]:
        models = self._models
        only = None if among is None else models.Filter(must=[models.HasIdCondition(has_id=among)])
        how = models.SearchParams(hnsw_ef=max(_EXPANSION, most)) if among is None else models.SearchParams(exact=True)
        with self._told():
            found = self._client.query_points(
                self._collection,
                query=np.asarray(query, np.float32).tolist(),
                limit=most,
                query_filter=only,
                search_params=how,
                with_payload=False,
            )
        return [int(point.id) for point in found.points]

    def given(self, places: list[int]) -> tuple[Sequence[int], np.ndarray]:
        if not places:
            return [], np.zeros((0, self.home.dim), np.float32)
        with self._told():
            found = self._client.retrieve(self._collection, ids=places, with_vectors=True, with_payload=False)
        vectors = np.array([point.vector for point in found], np.float32).reshape(-1, self.home.dim)
        return [int(point.id) for point in found], vectors

    def close(self) -> None:
        self._client.close()


def _parts(address: str) -> tuple[str, str, str | None]:
    """Server, collection and what stands between them of such as http://host:6333/prefix/photos."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port or _PORT
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise InputError(f"--store {f'qdrant:{shown(address)}'!r} names no server: give such as {_FORM}")
    prefix, _, collection = parts.path.strip("/").rpartition("/")
    if not collection:
        raise InputError(f"--store {f'qdrant:{shown(address)}'!r} names no collection: give such as {_FORM}")
    server = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return server, collection, prefix or None


def _library() -> Any:
    try:
        from qdrant_client import QdrantClient, models
    except ImportError as error:
        raise InputError('--store qdrant needs its client: pip install "lightning-clip[qdrant]"') from error
    return QdrantClient, models
