"""Sections of a report and their tables: what a page has of each subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Section", "Table"]


@dataclass
class Table:
    """Rows of text under a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass
class Section:
    """A heading with, in this order, text, a table, figures two in a row and a command to copy."""

    title: str
    text: str = ""
    table: Table | None = None
    figures: Sequence[tuple[str, Figure]] = field(default_factory=list)
    command: str = ""
