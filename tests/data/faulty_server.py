"""A web server that misbehaves: files and faults arrive, an address leaves."""

from __future__ import annotations

import gzip
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["PAGE", "FaultyServer", "serve"]

PAGE = b"<!DOCTYPE html>\n<html><body>Please log in.</body></html>"


class FaultyServer(ThreadingHTTPServer):
    """Serves `files`, with a link to each at `/`; `faults` says what happens to a name.

    Faults: "missing" (404), "status 503" and other numbers, "cut" (ends in the middle), "stalls" (falls silent in the middle),
    "silent" (never answers), "resets" (closes the connection), "page" (that of a login), "gzip", "chunked" and "endless" (no
    length, the end of the connection is that of the file), "ends early" (the same, in the middle), or a number of requests that
    are answered by an error before it works.

    Attributes:
        etags: name -> ETag, of files that have one.
        token: that requests must bring, if any.
        failing: status of requests that fail before it works.
        retry_after: seconds that an answer of 503 or 429 asks to wait, if any.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], faults: Mapping[str, Any]) -> None:
        self.files, self.faults = dict(files), dict(faults)
        self.etags: dict[str, str] = {}
        self.token: str | None = None
        self.retry_after: str | None = None
        self.failing = 503
        self.asked: Counter[str] = Counter()
        self.closing = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Nothing is printed: clients hang up in these tests."""


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
        name = self.path.lstrip("/").partition("?")[0]
        content, fault = self.server.files.get(name), self.server.faults.get(name)
        if fault == "silent":
            self.server.closing.wait(60)
            return
        if fault == "resets":
            self.close_connection = True
            return
        if not name and fault is None:
            content = "".join(f'<a href="/{file}">{file}</a>' for file in self.server.files).encode()
        if (status := self._refused(content, fault)) is not None:
            self._error(status, body)
            return
        assert content is not None
        if body:
            self.server.asked[name] += 1
            if isinstance(fault, int) and self.server.asked[name] <= fault:
                self._error(self.server.failing, body)
                return
        if fault in ("gzip", "chunked", "endless", "ends early"):
            self._without_length(content, fault, body)
            return
        self._send(PAGE if fault == "page" else content, name, fault, body)

    def _refused(self, content: bytes | None, fault: Any) -> int | None:
        if self.server.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return 401
        if isinstance(fault, str) and fault.startswith("status "):
            return int(fault.split()[1])
        return 404 if content is None or fault == "missing" else None

    def _error(self, status: int, body: bool) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "5")
        if self.server.retry_after is not None:
            self.send_header("Retry-After", self.server.retry_after)
        self.end_headers()
        if body:
            self.wfile.write(b"error")

    def _without_length(self, content: bytes, fault: str, body: bool) -> None:
        self.send_response(200)
        if fault == "gzip":
            content = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(content)))
        elif fault == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
            content = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (content[:1000], content[1000:])) + b"0\r\n\r\n"
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
            content = content[: len(content) // 2 - 100] if fault == "ends early" else content
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _send(self, content: bytes, name: str, fault: Any, body: bool) -> None:
        status, start, end = 200, 0, len(content)
        if body and (asked := self.headers.get("Range")):
            low, _, high = asked.removeprefix("bytes=").partition("-")
            status, start, end = 206, int(low), min(len(content), int(high or len(content) - 1) + 1)
        self.send_response(status)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Accept-Ranges", "bytes")
        if name in self.server.etags:
            self.send_header("ETag", self.server.etags[name])
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
