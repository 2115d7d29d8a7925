"""A served collection, and what people do in a browser, for the tests of the page."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import waiting

from lightning_clip.applications.search.web import Collection
from lightning_clip.applications.search.web.serving import bound, server_of
from lightning_clip.model.predictor import Predictor

__all__ = ["Page", "dropped", "pasted", "serving", "until"]

Page = Any  # of Playwright, which may be missing
LIMIT = 300_000


@contextmanager
def serving(index: Path, predictor: Predictor, port: int = 0) -> Iterator[str]:
    """A server in a thread: the page's address."""
    told: list[str] = []
    with bound("127.0.0.1", port) as opened:
        server = server_of(Collection(index, predictor), opened, upload_limit=LIMIT, started=told.append)
        thread = Thread(target=lambda: server.run(sockets=[opened]), daemon=True)
        thread.start()
        waiting.until(lambda: told, "the server says that it runs")
        yield told[0]
        server.should_exit = True
        server.force_exit = True  # a browser keeps its connections
        thread.join(waiting.PATIENCE)


def until(page: Page, true: str, timeout: float = waiting.PATIENCE) -> None:
    """Waits until an expression is true. Playwright's own way needs `eval`, which the page forbids."""
    end = monotonic() + timeout
    while not page.evaluate(true):
        assert monotonic() < end, f"never true: {true}"
        page.wait_for_timeout(50)


def dropped(page: Page, path: Path) -> None:
    """Drops a file as a file manager does."""
    transfer = page.evaluate_handle(_TRANSFER, [base64.b64encode(path.read_bytes()).decode(), path.name])
    page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
    assert page.is_visible("#drop")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    assert not page.is_visible("#drop")


def pasted(page: Page, path: Path) -> None:
    """Pastes a picture that was copied elsewhere."""
    transfer = page.evaluate_handle(_TRANSFER, [base64.b64encode(path.read_bytes()).decode(), path.name])
    page.evaluate("given => dispatchEvent(new ClipboardEvent('paste', {clipboardData: given}))", transfer)


_TRANSFER = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, {type: name.endsWith(".png") ? "image/png" : "text/plain"}));
  return transfer;
}"""
