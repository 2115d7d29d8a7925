"""`lightning-clip serve`: an index as a page in the browser, and as a REST API."""

from __future__ import annotations

import argparse
from contextlib import closing, suppress
from functools import partial

from lightning_clip.commands.index import devices_of
from lightning_clip.core.errors import InputError

__all__ = ["add_arguments", "run"]

_LOCAL = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("index", metavar="INDEX", help="folder that lightning-clip index build wrote")
    parser.add_argument("--checkpoint", metavar="MODEL", help="where the index's model is, if not where it was")
    parser.add_argument("--device", default="", metavar="NAME", help="such as cuda (default: cpu)")
    parser.add_argument("--port", type=int, default=8000, help="of the page, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="another one lets other machines in (default: %(default)s)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="name by which other machines' browsers call this one; may be repeated",
    )
    parser.add_argument("--max-upload", type=int, default=32, metavar="MB", help="size of a picture (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def run(arguments: argparse.Namespace) -> None:
    """Serves until Ctrl-C.

    Raises:
        InputError: no index, a model that is not the index's, a port in use, or an address that others see without a name.
    """
    from lightning_clip.core.settings import in_range

    in_range("--port", arguments.port, 0, 65_535, whole=True)
    in_range("--max-upload", arguments.max_upload, 1, 1000, whole=True)
    if arguments.host not in _LOCAL and not arguments.allow_host:
        raise InputError(
            f"--host {arguments.host!r} lets other machines in, without a password: name with --allow-host what they call "
            "this one, such as photos.home"
        )
    devices = devices_of(arguments.device)
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError('the page needs starlette and uvicorn: pip install "lightning-clip[serve]"') from error
    from lightning_clip.applications.search import SearchIndex
    from lightning_clip.applications.search.web import Collection
    from lightning_clip.applications.search.web.serving import bound, server_of
    from lightning_clip.loading import open_predictor

    index = SearchIndex(arguments.index)
    model = arguments.checkpoint or index.model
    index.close()
    if model is None:
        raise InputError(f"index {arguments.index!r} does not know its model: name it with --checkpoint")
    with bound(arguments.host, arguments.port) as opened:
        print(f"opening {model}", flush=True)
        predictor = open_predictor(model)
        collection = Collection(arguments.index, predictor)
        predictor.model.to(devices[0] if devices else "cpu")
        told = partial(_started, arguments.index, arguments.open)
        server = server_of(
            collection, opened, arguments.allow_host, upload_limit=arguments.max_upload * 1_000_000, started=told
        )
        with closing(collection), suppress(KeyboardInterrupt):  # Ctrl-C is how it is stopped
            server.run(sockets=[opened])


def _started(index: str, show: bool, address: str) -> None:
    print(f"{index} is at {address} (API: {address}/docs). Ctrl-C stops it.", flush=True)
    if show:
        import webbrowser

        webbrowser.open(address)
