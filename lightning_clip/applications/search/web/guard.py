"""`Guard`: lets through what the page itself asks for, and nothing that another website makes a browser ask."""

from __future__ import annotations

import json
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightning_clip.core.errors import InputError

__all__ = ["LOCAL", "Guard", "TooLarge", "body_of"]

LOCAL = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    # Captions and file names are the work of others: no script but our own runs, and nothing is fetched from elsewhere.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class TooLarge(InputError):
    """A body of more bytes than are taken: 413."""


class Guard:
    """An application that refuses foreign requests before it hands them on, and adds headers that bind browsers.

    A website that resolves its own name to 127.0.0.1 (DNS rebinding) sends that name as Host; one that posts here from its
    own address sends that as Origin. Both are refused.

    Args:
        app: what is guarded.
        hosts: names by which it may be called besides those of this machine.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {name.lower().strip("[]") for name in (*LOCAL, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message.get("headers", ())}
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items() if name.encode() not in given]
                if b"cache-control" not in given:
                    added.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        if reason := self.refusal({name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}):
            content = json.dumps({"error": reason}).encode()
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
            await send_with_headers({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": content})
            return
        await self.app(scope, receive, send_with_headers)

    def refusal(self, headers: dict[str, str]) -> str:
        """Why a request is refused; empty where it is not.

        Args:
            headers: their names in small letters.

        Examples:
            >>> Guard(None).refusal({"host": "evil.example:8000"})[:40]
            "host 'evil.example' is not served here: "
            >>> Guard(None).refusal({"host": "localhost:8000", "origin": "http://localhost:8000"})
            ''
        """
        host = headers.get("host", "").lower()
        name = _name(host)
        if name not in self.hosts:
            return (
                f"host {name[:100]!r} is not served here: open http://127.0.0.1 with the port, or start lightning-clip serve "
                "with --allow-host and that name"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin.lower()).netloc != host:
            return f"origin {origin[:100]!r} is another website: requests come from the page itself, or from programs"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and headers.get("sec-fetch-mode") != "navigate":
            return "another website asked for this: requests come from the page itself, or from programs"
        return ""


def _name(host: str) -> str:
    """Of a Host header, without the port and the brackets of IPv6."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


async def body_of(receive: Receive, length: str | None, limit: int) -> bytes:
    """All bytes of a request.

    Args:
        receive: of ASGI.
        length: its Content-Length, if any: a body that says it is too large is not read at all.
        limit: bytes at most.

    Raises:
        TooLarge: more than that.
    """
    message = f"the upload has more than {limit / 1e6:,.0f} MB: make the picture smaller"
    if length is not None and length.isdigit() and int(length) > limit:
        raise TooLarge(message)
    parts, size, more = [], 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return b""
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise TooLarge(message)
        more = event.get("more_body", False)
    return b"".join(parts)
