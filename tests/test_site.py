"""The documentation as a site: what the check of links finds, and that the built site passes it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from browsers import chromium as chromium  # a fixture

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs_build"))
import check_site  # noqa: E402


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Two pages, a picture and an index of the search, all well."""
    (tmp_path / "faq").mkdir()
    (tmp_path / "search").mkdir()
    (tmp_path / "picture.png").touch()
    (tmp_path / "index.html").write_text('<h1 id="top">x</h1><a href="faq/#out-of-memory">a</a><img src="picture.png">')
    (tmp_path / "faq/index.html").write_text(
        '<h2 id="out-of-memory">m</h2><a href="..#top">b</a><a href="#out-of-memory">c</a>'
    )
    documents = [{"title": "FAQ", "text": "Docker, TensorBoard, wandb on multi-GPU machines"}]
    (tmp_path / "search/search_index.json").write_text(json.dumps({"docs": documents}))
    return tmp_path


def test_a_whole_site_passes(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_site.main(site) == 0 and capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("markup", "fault"),
    [
        ('<a href="gone/">x</a>', "gone/: no such file"),
        ('<a href="faq/#gone">x</a>', "faq/#gone: no such anchor"),
        ('<img src="gone.png">', "gone.png: no such file"),
        ('<script src="//elsewhere.org/x.js"></script>', "is loaded from elsewhere"),
    ],
)
def test_faults_are_named(site: Path, capsys: pytest.CaptureFixture[str], markup: str, fault: str) -> None:
    page = site / "index.html"
    page.write_text(page.read_text() + markup)
    assert check_site.main(site) == 1
    assert fault in capsys.readouterr().err


def test_addresses_of_others_are_not_asked_for(site: Path) -> None:
    page = site / "index.html"
    page.write_text(page.read_text() + '<a href="https://example.org/gone">x</a><img src="data:image/png;base64,AA">')
    assert check_site.broken_links(site) == []


def test_search_misses_are_named(site: Path) -> None:
    assert check_site.not_found(site, ("docker", "horovod")) == ["horovod"]


def test_formulas_close() -> None:
    """Each formula is one that arithmatex marks: opened and closed in one paragraph, so that none stays raw TeX."""
    for page in (ROOT / "docs").rglob("*.md"):
        text = re.sub(r"```.*?```|`[^`\n]+`", "", page.read_text(), flags=re.S)
        for paragraph in text.split("\n\n"):
            assert paragraph.count("\\(") == paragraph.count("\\)"), page
            assert len(re.findall(r"(?<!\\)\\\[", paragraph)) == len(re.findall(r"(?<!\\)\\\]", paragraph)), page


def test_formulas_need_no_network() -> None:
    """KaTeX's style sheet names fonts that lie beside it."""
    folder = ROOT / "docs/assets/katex"
    fonts = re.findall(r"url\((fonts/[^)]+\.woff2)\)", (folder / "katex.min.css").read_text())
    assert len(fonts) >= 20 and all((folder / font).is_file() for font in fonts)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site, built strictly once for all tests that read it."""
    if util.find_spec("mkdocs") is None:
        pytest.skip("needs the docs extra")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_link_of_the_site_leads_somewhere_and_the_search_finds(built: Path) -> None:
    assert check_site.broken_links(built) == [] and check_site.not_found(built) == []


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_api_pages_show_no_internals(built: Path) -> None:
    pages = "".join(page.read_text() for page in (built / "api").rglob("*.html"))
    names = {path.rpartition(".")[2] for path in re.findall(r'<h\d id="(lightning_clip[^"]*)"', pages)}
    assert {"ClipModule", "Predictor", "open_predictor"} <= names
    assert not {name for name in names if name.startswith(("_", "on_"))} and "undecayed_names" not in names


@pytest.fixture(scope="module")
def address(built: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(built)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


PAGES = ("", "concepts/losses/", "protocols/few_shot/", "recipes/flickr8k/", "benchmarks/", "from_open_clip/")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("width", [400, 1200])
def test_pages_in_a_browser(width: int, address: str, chromium: Any) -> None:
    """Nothing scrolls sideways but tables and code, formulas are set, and no other site is asked for anything."""
    page = chromium.new_page(viewport={"width": width, "height": 900})
    asked: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    formulas = 0
    for name in PAGES:
        page.goto(address + name, timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        marked, drawn = (page.locator(which).count() for which in (".arithmatex", ".arithmatex .katex-html"))
        assert marked == drawn, name
        formulas += drawn
    page.close()
    assert formulas >= 7 and errors == []
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
