"""One self-contained HTML page of sections with text, tables and figures, without outside references."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.core.atomic import beside
from lightning_clip.reporting.sections import Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "Table", "write_report"]

_NAME_BYTES = 100  # of a figure's file name; file systems take 255 at most
_STATIC = Path(__file__).with_name("static")


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> list[tuple[str, Path]]:
    """Writes the page beside its place, then moves it there; figures are held in the page.

    Plots are SVG in the page's colours, light or dark as the reader's system is, and pictures are cells that wrap; a click on
    a column's name sorts a table. The same figures lie beside it as PNG, in `<name>_figures/`, for slides and papers.

    Args:
        path: of the .html file.
        title: heading of the page.
        subtitle: a line below it.
        sections: in their order.

    Returns:
        What each plot shows, and its PNG; sheets of pictures are not among them, as they show the data of others.
    """
    from lightning_clip.reporting.drawing import png  # matplotlib is not needed to make sections
    from lightning_clip.reporting.sheets import ContactSheet

    folder = path.parent / f"{path.stem}_figures"
    named = [(words, folder / f"{stem}.png", figure) for stem, words, figure in _named(sections)]
    pictures = [(file, png(figure)) for _, file, figure in named]
    with beside(path) as place:
        place.write_text(_page(title, subtitle, sections), encoding="utf-8")
    for file, content in pictures:
        with beside(file) as place:
            place.write_bytes(content)
    return [(words, file) for words, file, figure in named if not isinstance(figure, ContactSheet)]


def _page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    style, script = ((_STATIC / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Texts of others are escaped; should one ever not be, the browser still runs no script but ours and fetches nothing.
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    places = "".join(
        f'<li><a href="#s{number}">{escape(section.title)}</a></li>' for number, section in enumerate(sections, start=1)
    )
    contents = f'<nav aria-label="contents"><b>Contents</b><ol>{places}</ol></nav>' if len(sections) > 1 else "<nav></nav>"
    body = "".join(_section(section, number) for number, section in enumerate(sections, start=1))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{style}</style></head>'
        f'<body><div class="frame"><header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>'
        f'<div class="columns">{contents}<main>{body}</main></div></div><script>{script}</script></body></html>\n'
    )


def _named(sections: Sequence[Section]) -> Iterator[tuple[str, str, Figure]]:
    """A file name for each figure, of its words, and these: a caption of any length and in any script may be among them."""
    seen: Counter[str] = Counter()
    for section in sections:
        for name, figure in section.figures:
            words = re.sub(r"\W+", "_", f"{section.title} {name}".lower())
            stem = words.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip("_")
            seen[stem] += 1
            yield stem if seen[stem] == 1 else f"{stem}_{seen[stem]}", f"{section.title}: {name}", figure


def _section(section: Section, number: int) -> str:
    from lightning_clip.reporting.parts import laid_out

    text = f"<p>{escape(section.text)}</p>" if section.text else ""
    return f'<section id="s{number}"><h2>{escape(section.title)}</h2>{text}{laid_out(section)}</section>'
