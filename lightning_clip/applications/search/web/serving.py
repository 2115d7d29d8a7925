"""Serving a collection on an address of this machine."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable

import uvicorn

from lightning_clip.applications.search.web.app import search_app
from lightning_clip.applications.search.web.collection import Collection
from lightning_clip.applications.search.web.guard import LOCAL
from lightning_clip.core.errors import InputError

__all__ = ["bound", "server_of"]


def bound(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address, before a model is loaded for nothing.

    Args:
        host: address or name of this machine.
        port: 0 takes a free one.

    Raises:
        InputError: the port is in use or may not be used, or the address is not this machine's.
    """
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise InputError(f"--host {host!r} is no address of this machine: give such as 127.0.0.1") from None
    opened = socket.socket(kind, socket.SOCK_STREAM)
    if socket.SO_REUSEADDR and hasattr(socket, "AF_UNIX"):  # elsewhere it would let two servers share a port
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port {port} is in use: choose another, or 0 for a free one") from None
        if error.errno == errno.EACCES:
            raise InputError(f"--port {port} may not be used by you: choose one above 1023") from None
        raise InputError(f"--host {host!r} is no address of this machine: give such as 127.0.0.1") from None
    return opened


def server_of(
    collection: Collection,
    opened: socket.socket,
    hosts: Iterable[str] = (),
    *,
    upload_limit: int,
    started: Callable[[str], None] = print,
) -> uvicorn.Server:
    """A server, which `run(sockets=[opened])` starts.

    Args:
        collection: what is served.
        opened: a socket that `bound` gave.
        hosts: names by which it may be called besides 127.0.0.1, localhost and ::1.
        upload_limit: bytes of a picture from outside.
        started: is told the page's address once it answers.
    """
    host, port = opened.getsockname()[:2]
    named = [*hosts, f"[{host}]" if ":" in host else host] if host not in ("0.0.0.0", "::") else [*hosts, LOCAL[0]]

    class Told(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                started(f"http://{named[0]}:{port}")

    app = search_app(collection, named, upload_limit)
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    return Told(settings)
