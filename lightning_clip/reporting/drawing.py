"""Figures as PNG, and as SVG whose texts stay texts: the browser's fonts draw them, in the page's colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter

from lightning_clip.reporting.letters import OWN_FONT, families

__all__ = ["DPI", "drawable", "png", "svg"]

DPI = 110
_SETTINGS: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "lightning_clip"}  # the same figure is the same text
_WITHOUT = {"Creator": None, "Date": None, "Format": None, "Type": None}


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, with fonts that have its letters.

    Args:
        figure: to draw.
    """
    buffer = io.BytesIO()
    with drawable(figure):
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def svg(figure: Figure) -> str:
    """A figure as an `<svg>` element for a page: transparent, what is black in the page's own colour of text.

    Args:
        figure: to draw.
    """
    buffer = io.StringIO()
    with drawable(figure), rc_context(_SETTINGS):
        figure.savefig(buffer, format="svg", dpi=DPI, transparent=True, metadata=_WITHOUT)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    head, closing, body = text.partition(">")
    head = re.sub(r' (width|height)="[^"]*"', "", head)  # the card has the width, viewBox the proportion
    return head + closing + body.replace("#000000", "currentColor")


@contextmanager
def drawable(figure: Figure) -> Iterator[None]:
    """Texts with letters that matplotlib's own font lacks are drawn in fonts that have them, those of ticks too.

    Args:
        figure: that the block saves.
    """
    with warnings.catch_warnings():  # `families` says it, once
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        if families(_texts(figure)) != [OWN_FONT]:
            figure.draw_without_rendering()  # texts of ticks are made here
            for text in figure.findobj(Text):
                if (found := families([text.get_text()])) != [OWN_FONT]:
                    text.set_fontfamily(found)
        yield


def _texts(figure: Figure) -> Iterator[str]:
    """All texts, those that ticks will get among them."""
    yield from (text.get_text() for text in figure.findobj(Text))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            formatter = axis.get_major_formatter()
            if isinstance(formatter, FixedFormatter):
                yield from map(str, formatter.seq)
