"""`search_app`: the page and the API as an ASGI application."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from lightning_clip.applications.search.web.collection import Collection
from lightning_clip.applications.search.web.guard import Guard, TooLarge, body_of
from lightning_clip.applications.search.web.openapi import document, documentation
from lightning_clip.applications.search.web.operations import OPERATIONS, Missing, Operation
from lightning_clip.applications.search.web.schema import fields
from lightning_clip.core.errors import InputError

__all__ = ["UPLOAD_LIMIT", "search_app"]

UPLOAD_LIMIT = 32_000_000  # bytes of a picture
_JSON_LIMIT = 4_000_000  # bytes of a query, with the vectors of some pictures
_STATIC = Path(__file__).parent / "static"
Endpoint = Callable[[Request], Awaitable[Response]]


def search_app(collection: Collection, hosts: Iterable[str] = (), upload_limit: int = UPLOAD_LIMIT) -> ASGIApp:
    """The application, for uvicorn or any other ASGI server.

    Args:
        collection: what is served.
        hosts: names by which it may be called besides 127.0.0.1, localhost and ::1.
        upload_limit: bytes of a picture from outside.
    """
    routes: list[Route | Mount] = [
        Route(operation.path, _endpoint(operation, collection, upload_limit), methods=[operation.method])
        for operation in OPERATIONS
    ]
    routes += [
        Route("/", _page),
        Route("/docs", _docs),
        Route("/openapi.json", _openapi),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    handlers: dict[Any, Any] = {InputError: _refused, HTTPException: _refused, Exception: _broken}
    app = Starlette(routes=routes, exception_handlers=handlers)
    return Guard(app, hosts)


def _endpoint(operation: Operation, collection: Collection, upload_limit: int) -> Endpoint:
    """One operation as an endpoint; the work is done in a thread, so that others are answered meanwhile."""

    async def endpoint(request: Request) -> Response:
        asked = {**request.query_params, **request.path_params}
        given = fields(asked, operation.parameters, "the address")
        if operation.sends_picture:
            given["content"] = await body_of(request.receive, request.headers.get("content-length"), upload_limit)
        elif operation.body:
            content = await body_of(request.receive, request.headers.get("content-length"), _JSON_LIMIT)
            given.update(fields(_mapping(content), operation.body, "the body"))
        answer = await run_in_threadpool(operation.run, collection, given)
        if operation.gives_picture:  # whatever its bytes are, browsers take them for a JPEG and nothing else
            kept = {"cache-control": "private, max-age=86400"} if given.get("v") else None  # its address changes with it
            return Response(answer, media_type="image/jpeg", headers=kept)
        if operation.path == "/api/index":
            answer["upload_limit"] = upload_limit
        return JSONResponse(answer)

    return endpoint


def _mapping(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise InputError('the body is no JSON: send such as {"texts": ["a red boat"]}') from None
    if not isinstance(found, dict):
        raise InputError('the body must be an object, such as {"texts": ["a red boat"]}')
    return found


async def _page(request: Request) -> Response:
    return FileResponse(_STATIC / "index.html", headers={"cache-control": "no-cache"})


async def _docs(request: Request) -> Response:
    return HTMLResponse(documentation())


async def _openapi(request: Request) -> Response:
    return JSONResponse(document())


async def _refused(request: Request, error: Exception) -> Response:
    """A mistake in one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": f"{error.detail}: {request.url.path[:100]}"}, error.status_code)
    status = 413 if isinstance(error, TooLarge) else 404 if isinstance(error, Missing) else 400
    return JSONResponse({"error": re.sub(r"\s+", " ", str(error))}, status)


async def _broken(request: Request, error: Exception) -> Response:
    """A fault of ours; the server's own log has the traceback."""
    return JSONResponse({"error": f"the server could not do this ({type(error).__name__}): its terminal tells more"}, 500)
