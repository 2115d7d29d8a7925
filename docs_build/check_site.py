"""A check of the built documentation: every internal link, anchor, picture and script leads to something in the folder.

Run by `make docs`: `python docs_build/check_site.py site`. Addresses of other sites are not asked for; a script, style sheet or
picture from elsewhere is a fault, since the pages are read without a network too.
"""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

# What people look for in the search box; each must be found.
SEARCHED = ("wandb", "tensorboard", "multi-gpu", "docker", "faq")
LOADED = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class PageParts(HTMLParser):
    """Anchors, links and loaded files of one page.

    Attributes:
        anchors: values of `id` and of `name` of links.
        links: (address, is loaded) of each link and of each file that the page loads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[tuple[str, bool]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append((given["href"], False))
        elif tag in LOADED and LOADED[tag] in given and given.get("rel") != "canonical":
            self.links.append((given[LOADED[tag]], True))


def read_page(page: Path) -> PageParts:
    """Parses a page.

    Args:
        page: an HTML file.

    Returns:
        Its parts.
    """
    parts = PageParts()
    parts.feed(page.read_text(encoding="utf-8"))
    return parts


def broken_links(site: Path) -> list[str]:
    """Lists what leads nowhere.

    Args:
        site: folder of the built site.

    Returns:
        A line for each fault: the page, the address, and what is wrong with it.
    """
    pages = {page: read_page(page) for page in sorted(site.rglob("*.html"))}
    faults = []
    for page, parts in pages.items():
        name = page.relative_to(site).as_posix()
        for address, loaded in parts.links:
            fault = _fault(site, pages, name, address, loaded)
            if fault:
                faults.append(f"{name}: {address}: {fault}")
    return faults


def _fault(site: Path, pages: dict[Path, PageParts], name: str, address: str, loaded: bool) -> str:
    where = urlsplit(address)
    if where.scheme or where.netloc:
        return "is loaded from elsewhere" if loaded and where.scheme != "data" else ""
    path = unquote(urlsplit(urljoin(f"/{name}", address)).path)
    target = site / path.lstrip("/")
    if target.is_dir():
        target /= "index.html"
    if not target.is_file():
        return "no such file"
    anchor = unquote(where.fragment)
    if anchor and not anchor.startswith("__") and target in pages and anchor not in pages[target].anchors:
        return "no such anchor"
    return ""


def not_found(site: Path, words: tuple[str, ...] = SEARCHED) -> list[str]:
    """Lists the words that the search box does not find.

    Args:
        site: folder of the built site.
        words: what is looked for, in any case.

    Returns:
        The words that stand in no page of the index.
    """
    documents = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))["docs"]
    texts = [f"{document['title']} {document['text']}".lower() for document in documents]
    return [word for word in words if not any(word in text for text in texts)]


def main(site: Path) -> int:
    """Prints the faults of a site.

    Args:
        site: its folder.

    Returns:
        The exit status: 1 if there are faults.
    """
    faults = broken_links(site) + [f"search does not find {word}" for word in not_found(site)]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "site")))
