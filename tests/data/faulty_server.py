"""A web server that misbehaves: files and faults arrive, an address leaves."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["FaultyServer", "serve"]


class FaultyServer(ThreadingHTTPServer):
    """Serves `files`; `faults` says what happens to a name.

    Faults: "missing" (404), "cut" (ends in the middle), "stalls" (falls silent in the middle), or a number of requests that
    are answered by an error before it works.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], faults: Mapping[str, Any]) -> None:
        self.files, self.faults = dict(files), dict(faults)
        self.asked: Counter[str] = Counter()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        name = self.path.lstrip("/")
        content, fault = self.server.files.get(name), self.server.faults.get(name)
        if content is None or fault == "missing":
            self.send_error(404)
            return
        if body:
            self.server.asked[name] += 1
            if isinstance(fault, int) and self.server.asked[name] <= fault:
                self.send_error(503)
                return
        status, start, end = 200, 0, len(content)
        if body and (asked := self.headers.get("Range")):
            low, _, high = asked.removeprefix("bytes=").partition("-")
            status, start, end = 206, int(low), min(len(content), int(high or len(content) - 1) + 1)
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        part = content[start:end]
        if fault in ("cut", "stalls"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            if fault == "stalls":
                self.server.closing.wait(60)
            self.close_connection = True
            return
        self.wfile.write(part)


@contextmanager
def serve(files: Mapping[str, bytes], faults: Mapping[str, Any] | None = None) -> Iterator[FaultyServer]:
    """Runs a server while the block lasts."""
    server = FaultyServer(files, faults or {})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join(10)
