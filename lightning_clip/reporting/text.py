"""Numbers and names as tables and captions show them."""

from __future__ import annotations

import html
import re
import textwrap

__all__ = ["in_markdown", "in_percent", "percent", "spaced", "wrapped"]


def percent(share: float, digits: int = 1) -> str:
    """A share in [0, 1] with its sign.

    Args:
        share: 0.5 is "50.0 %".
        digits: after the point.

    Examples:
        >>> percent(0.1249)
        '12.5 %'
    """
    return f"{in_percent(share, digits)} %"


def in_percent(share: float, digits: int = 1) -> str:
    """A share or a difference of shares in per cent, without the sign: for columns whose header has it.

    Args:
        share: 0.5 is "50.0".
        digits: after the point.

    Examples:
        >>> in_percent(-0.1249, digits=2)
        '-12.49'
    """
    return f"{100 * share:.{digits}f}"


def in_markdown(text: str) -> str:
    """A text of others in a cell of a markdown table: shown as it is, be the page that it lands on HTML or not.

    Args:
        text: such as a set's name.

    Examples:
        >>> in_markdown("<b>a set")
        '&lt;b&gt;a set'
    """
    return re.sub(r"([\\`*\[\]|~])", r"\\\1", html.escape(" ".join(text.split()), quote=False)).replace("://", ":&#47;/")


def spaced(name: str) -> str:
    """A name of a set or a measure as words.

    Args:
        name: with underscores.

    Examples:
        >>> spaced("median_rank")
        'median rank'
    """
    return name.replace("_", " ")


def wrapped(text: str, width: int = 24, lines: int = 3) -> str:
    """Text in a few short lines, of which the last says if it is not all.

    Args:
        text: of any length.
        width: letters a line.
        lines: at most.
    """
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …"))
