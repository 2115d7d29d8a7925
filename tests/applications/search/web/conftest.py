"""One index of rendered scenes, its model, and the application over them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from applications.search.web.browser import serving
from browsers import chromium as chromium  # a fixture
from PIL import Image
from starlette.testclient import TestClient

from lightning_clip.applications.search import build_index
from lightning_clip.applications.search.web import Collection, search_app
from lightning_clip.loading import open_predictor
from lightning_clip.model.predictor import Predictor

NAMES = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "yellow": (230, 220, 40), "grey": (90, 90, 90)}
SCRIPT = '<img src=x onerror="document.title=1"> & <b>bold</b>'


def draw(folder: Path, name: str, colour: tuple[int, int, int], caption: str) -> Path:
    """A picture of noise around a colour, its caption beside it."""
    noise = np.random.default_rng(sum(colour)).integers(0, 25, (40, 48, 3))
    Image.fromarray((noise + np.array(colour)).clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / f"{name}.txt").write_text(caption)
    return folder / f"{name}.png"


@pytest.fixture(scope="session")
def predictor(checkpoint: str) -> Predictor:
    return open_predictor(checkpoint)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures; one stands there twice, one has a caption that is HTML."""
    folder = tmp_path_factory.mktemp("web") / "pictures"
    folder.mkdir()
    for name, colour in NAMES.items():
        draw(folder, name, colour, SCRIPT if name == "grey" else f"a {name} field")
    shutil.copy(folder / "blue.png", folder / "copy.png")
    (folder / "copy.txt").write_text("blue once more")
    return folder


@pytest.fixture(scope="session")
def index(pictures: Path, checkpoint: str) -> Path:
    path = pictures.parent / "photos.index"
    build_index(path, str(pictures), checkpoint)
    return path


@pytest.fixture
def collection(index: Path, predictor: Predictor) -> Iterator[Collection]:
    found = Collection(index, predictor)
    yield found
    found.close()


@pytest.fixture
def client(collection: Collection) -> TestClient:
    return TestClient(search_app(collection, upload_limit=100_000), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="session")
def many(pictures: Path, checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The five pictures and the copy, below 44 newer ones."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copytree(pictures, folder / "a")
    (folder / "b").mkdir()
    for number, colour in enumerate(np.random.default_rng(0).integers(0, 230, (44, 3)).tolist()):
        draw(folder / "b", f"field_{number:02d}", colour, f"field number {number}")
    for part in "ab":
        build_index(folder / "many.index", str(folder / part), checkpoint)
    return folder / "many.index"


@pytest.fixture(scope="session")
def server(many: Path, predictor: Predictor) -> Iterator[str]:
    with serving(many, predictor) as address:
        yield address


@pytest.fixture
def page(chromium: Any, server: str) -> Iterator[Any]:
    """A window of a desktop, in which no script fails and nothing comes from elsewhere."""
    context = chromium.new_context(viewport={"width": 1280, "height": 800}, color_scheme="light", base_url=server)
    context.set_default_timeout(60_000)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    window = context.new_page()
    faults: list[str] = []
    asked: set[str] = set()
    window.on("pageerror", lambda error: faults.append(str(error)))
    window.on("request", lambda request: asked.add(request.url))
    window.goto("/")
    window.wait_for_selector("#hits .card")
    yield window
    context.close()
    assert faults == []
    assert all(url.startswith((f"{server}/", "blob:", "data:")) for url in asked)
