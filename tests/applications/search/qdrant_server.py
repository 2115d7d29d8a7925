"""A server that speaks the part of Qdrant's REST API that is used, and answers by the client's own in-process collections."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

from qdrant_client import QdrantClient, models

warnings.filterwarnings("ignore", message="Local mode performs exact")


class Handler(BaseHTTPRequestHandler):
    """One request; the collections are the server's."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer("GET")

    def do_PUT(self) -> None:
        self.answer("PUT")

    def do_POST(self) -> None:
        self.answer("POST")

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, method: str) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
        server: Any = self.server
        server.seen.append((method, self.path, self.headers.get("api-key")))
        if server.key is not None and self.headers.get("api-key") != server.key:
            return self.send(401, b"Must provide an API key or an Authorization bearer token")
        _, _, name, *rest = self.path.partition("?")[0].split("/")
        with server.lock:
            try:
                found = done(server.client, method, name, "/".join(rest), body)
            except ValueError as error:
                return self.send(404, json.dumps({"status": {"error": str(error)}}).encode())
        self.send(200, json.dumps({"result": found, "status": "ok", "time": 0.0}).encode())

    def send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def done(client: QdrantClient, method: str, name: str, what: str, body: dict[str, Any]) -> Any:
    """What a request asks for."""
    plain = {key: body[key] for key in ("limit", "with_payload", "offset", "ids", "exact") if key in body}
    plain["with_vectors"] = body.get("with_vector", False)
    only = models.Filter(**body["filter"]) if body.get("filter") else None
    if what == "exists":
        return {"exists": client.collection_exists(name)}
    if what == "":
        if method == "GET":
            return client.get_collection(name).model_dump(mode="json")
        return client.create_collection(name, vectors_config=models.VectorParams(**body["vectors"]))
    if (method, what) == ("PUT", "points"):
        result = client.upsert(name, points=models.Batch(**body["batch"]))
    elif what == "points":
        return [record.model_dump(mode="json") for record in client.retrieve(name, **plain)]
    elif what == "points/count":
        return {"count": client.count(name, exact=True).count}
    elif what == "points/scroll":
        points, following = client.scroll(name, **plain)
        return {"points": [record.model_dump(mode="json") for record in points], "next_page_offset": following}
    elif what == "points/query":
        return client.query_points(name, query=body["query"]["nearest"], query_filter=only, **plain).model_dump(mode="json")
    elif what == "points/delete":
        result = client.delete(name, points_selector=models.PointIdsList(points=body["points"]))
    else:
        raise AssertionError(f"{method} {what} is not known here")
    return result.model_dump(mode="json")


@contextmanager
def qdrant(key: str | None = None) -> Iterator[ThreadingHTTPServer]:
    """A server on a free port of this machine: `url`, `client` and the requests it has `seen`.

    Args:
        key: that it asks for.
    """
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.client, server.lock, server.key, server.seen = QdrantClient(":memory:"), Lock(), key, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
