"""Parts of a report's card as HTML: tables, plots, pictures, a command; small ones stand two in a row."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape

from matplotlib.figure import Figure
from PIL import Image

from lightning_clip.reporting.drawing import png, svg
from lightning_clip.reporting.sections import Section, Table
from lightning_clip.reporting.sheets import Cell, ContactSheet

__all__ = ["laid_out"]

_NARROW = 4  # columns of a table that stands beside something else
_SVG_BYTES = 400_000  # thousands of points are smaller as PNG
_THUMB, _SMALL = 256, 64  # pixels of a picture's longer side: at most; and where pixels are shown as they are
_NUMBER = re.compile(r"[+\-−]?[\d,.]+(?:[eE][+-]?\d+)?(?: to [+\-−]?[\d,.]+)?\s*(?:%|x|s|points)?|nan|inf")

# Lines were broken for the PNG; the page breaks them by itself, all but those before "(is ..." and "2. ...".
_EAST_ASIAN_WRAP, _WRAP = re.compile(r"(?<=[\u2e80-\uffdc])\n(?=[\u2e80-\uffdc])"), re.compile(r"\n(?!\(|\d\. )")


def laid_out(section: Section) -> str:
    """What stands under the heading and the text of a section, as HTML.

    Args:
        section: whose texts are escaped here.
    """
    parts: list[tuple[bool, str, str]] = []  # (takes the whole width, class, content)
    if section.table:
        parts.append((len(section.table.header) > _NARROW, "scroll", _table(section.table)))
    for name, figure in section.figures:
        parts.append(_figure(name, figure))
    if section.command:
        parts.append((True, "", f"<pre>{escape(section.command)}</pre>"))
    if not parts:
        return ""
    wide = _widths([whole for whole, _, _ in parts])
    cells = (f'<div class="{kind}{" all" * whole}">{inner}</div>' for whole, (_, kind, inner) in zip(wide, parts, strict=True))
    return f'<div class="parts">{"".join(cells)}</div>'


def _widths(whole: Sequence[bool]) -> list[bool]:
    """A part that would stand alone in its row takes the whole of it."""
    found, waiting = list(whole), False
    for place, wide in enumerate(whole):
        if wide:
            if waiting:
                found[place - 1] = True
            waiting = False
        else:
            waiting = not waiting
    if waiting:
        found[-1] = True
    return found


def _table(table: Table) -> str:
    columns = range(len(table.header))
    cells = [[row[column] for row in table.rows if column < len(row) and row[column].strip()] for column in columns]
    kinds = [' class="number"' if own and all(_NUMBER.fullmatch(cell) for cell in own) else "" for own in cells]
    head = "".join(f"<th{kind}>{escape(cell)}</th>" for cell, kind in zip(table.header, kinds, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=False)) + "</tr>"
        for row in table.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _figure(name: str, figure: Figure) -> tuple[bool, str, str]:
    """A sheet as cells, a plot as SVG unless that is too much, as a PNG else."""
    if isinstance(figure, ContactSheet):
        whole = len(figure.cells) > 4 or figure.columns > 4
        return whole, "", _sheet(figure)
    width, height = figure.get_size_inches()
    whole = bool(width > 1.9 * height and width > 6.5)
    drawn = svg(figure)
    if len(drawn) <= _SVG_BYTES:
        labelled = drawn.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)
        return whole, "plot", f"<figure>{labelled}</figure>"
    return whole, "raster", f'<figure><img alt="{escape(name)}" src="{_data_address("png", png(figure))}"></figure>'


def _sheet(sheet: ContactSheet) -> str:
    cells = "".join(_cell(cell) for cell in sheet.cells)
    kind = f'class="sheet rows" style="--columns: {sheet.columns}"' if sheet.keeps_rows else 'class="sheet"'
    return f"<div {kind}>{cells}</div>"


def _cell(cell: Cell) -> str:
    picture = Image.fromarray(cell.image)
    small = max(picture.size) <= _SMALL
    picture.thumbnail((_THUMB, _THUMB))
    buffer = io.BytesIO()
    form = "png" if small or picture.mode != "RGB" else "jpeg"
    picture.save(buffer, form, quality=88)
    shade = ' class="small"' if small else ""
    source = _data_address(form, buffer.getvalue())
    caption = escape(_WRAP.sub(" ", _EAST_ASIAN_WRAP.sub("", cell.caption)))
    return f'<figure><img{shade} alt="{caption}" src="{source}"><figcaption class="{cell.tone}">{caption}</figcaption></figure>'


def _data_address(form: str, content: bytes) -> str:
    return f"data:image/{form};base64,{base64.b64encode(content).decode()}"
