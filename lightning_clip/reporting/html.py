"""One self-contained HTML page of sections with text, tables and figures, without outside references."""

from __future__ import annotations

import base64
import html
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_clip.core.atomic import beside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "Table", "write_report"]

_NAME_BYTES = 100  # of a figure's file name; file systems take 255 at most
_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; color: #1d232b; background: #f5f6f8; margin: 0 }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 26px; margin: 0 0 4px } h2 { font-size: 18px; margin: 0 0 10px }
section { background: #fff; border: 1px solid #e3e6ea; border-radius: 10px; padding: 18px 20px; margin-top: 18px }
table { border-collapse: collapse; margin: 4px 0 8px } th, td { padding: 4px 14px 4px 0; text-align: left }
td + td, th + th { text-align: right; font-variant-numeric: tabular-nums } th { border-bottom: 1px solid #cfd4da }
tr td { border-bottom: 1px solid #f0f1f3 } p { margin: 4px 0 10px; color: #444c56 }
img { max-width: 100%; height: auto } .row { display: flex; flex-wrap: wrap; gap: 12px } .row > * { flex: 1 1 440px }
pre { background: #f0f2f5; border-radius: 6px; padding: 10px 12px; overflow-x: auto; font-size: 13px }
"""


@dataclass
class Table:
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A heading with, in this order, text, a table, figures side by side and a command to copy."""

    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[tuple[str, Figure]] = field(default_factory=list)
    command: str = ""


def write_report(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Writes the page beside its place, then moves it there; figures are held in the page.

    The same figures lie beside it as PNG, in `<name>_figures/`, for slides and papers.

    Args:
        path: of the .html file.
        title: heading of the page.
        subtitle: a line below it.
        sections: in their order.
    """
    pictures = {id(figure): _png(figure) for section in sections for _, figure in section.figures}
    body = "".join(_section(section, pictures) for section in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p>{body}</main></body></html>"
    )
    with beside(path) as place:
        place.write_text(page, encoding="utf-8")
    for stem, figure in _named(sections):
        with beside(path.parent / f"{path.stem}_figures" / f"{stem}.png") as place:
            place.write_bytes(pictures[id(figure)])


def _named(sections: Sequence[Section]) -> Iterator[tuple[str, Figure]]:
    """A file name for each figure, of its words: a caption of any length and in any script may be among them."""
    seen: Counter[str] = Counter()
    for section in sections:
        for name, figure in section.figures:
            words = re.sub(r"\W+", "_", f"{section.title} {name}".lower())
            stem = words.encode()[:_NAME_BYTES].decode(errors="ignore").rstrip("_")
            seen[stem] += 1
            yield stem if seen[stem] == 1 else f"{stem}_{seen[stem]}", figure


def _section(section: Section, pictures: Mapping[int, bytes]) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    if section.table:
        parts.append(_table(section.table))
    if section.figures:
        images = "".join(_image(alt, pictures[id(figure)]) for alt, figure in section.figures)
        parts.append(f'<div class="row">{images}</div>')
    if section.command:
        parts.append(f"<pre>{html.escape(section.command)}</pre>")
    return f"<section>{''.join(parts)}</section>"


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _png(figure: Figure) -> bytes:
    """Drawn once, for the page and for the folder beside it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _image(alt: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    return f'<div><img alt="{html.escape(alt)}" src="data:image/png;base64,{data}"></div>'
