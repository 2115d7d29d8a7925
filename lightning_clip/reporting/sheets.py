"""Contact sheets: pictures with a line of text under each, as a matplotlib figure and as cells of a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lightning_clip.reporting.colours import in_colour
from lightning_clip.reporting.letters import literal

__all__ = ["Cell", "ContactSheet", "contact_sheet"]

GREEN, RED = "#2e8b57", "#c0392b"
_COLOURS = {"good": GREEN, "bad": RED, "plain": "black"}
_SIDE, _GAP, _LINE = 1.35, 0.1, 0.125  # inches of a picture, between two, of a line of text


@dataclass(frozen=True)
class Cell:
    """One picture of a sheet.

    Attributes:
        image: uint8 (H, W, 3) or (H, W).
        caption: in one or several lines.
        tone: "good", "bad" or "plain".
    """

    image: np.ndarray
    caption: str
    tone: str


class ContactSheet(Figure):
    """Pictures in rows with a text under each.

    Args:
        cells: in reading order.
        columns: pictures in a row.
        keeps_rows: a row belongs together, so that a narrow page must not break it elsewhere.
    """

    def __init__(self, cells: Sequence[Cell], columns: int, keeps_rows: bool = False) -> None:
        self.cells, self.columns, self.keeps_rows = tuple(cells), columns, keeps_rows
        rows = max(1, -(-len(cells) // columns))
        lines = max((cell.caption.count("\n") + 1 for cell in cells), default=1)
        step = _SIDE + _LINE * lines + _GAP
        width, height = columns * (_SIDE + _GAP) + _GAP, rows * step + _GAP
        super().__init__(figsize=(width, height))
        for number, cell in enumerate(cells):
            row, column = divmod(number, columns)
            left, bottom = _GAP + column * (_SIDE + _GAP), height - _GAP - row * step - _SIDE
            # Places are reckoned here: a layout engine takes seconds for 32 pictures.
            axes = self.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
            axes.set_axis_off()
            axes.set_anchor("S")
            axes.imshow(cell.image, cmap="gray", interpolation="nearest")
            middle, under = (left + _SIDE / 2) / width, (bottom - 0.03) / height
            style: dict[str, Any] = {"fontsize": 6.5, "color": _COLOURS[cell.tone]}
            self.text(middle, under, literal(cell.caption), ha="center", va="top", **style)


def contact_sheet(
    images: Sequence[Tensor | Any],
    captions: Sequence[str],
    colours: Sequence[str] | None = None,
    columns: int | None = None,
) -> ContactSheet:
    """Images with a line of text under each.

    Args:
        images: uint8 (C, H, W); of more than three bands the first three are shown.
        captions: one per image.
        colours: of the captions: "good", "bad" or "plain".
        columns: images in a row, where rows have a meaning; None makes rows of 8, which a narrow page breaks earlier.

    Examples:
        >>> import torch
        >>> sheet = contact_sheet(list(torch.zeros(3, 3, 8, 8, dtype=torch.uint8)), ["a", "b", "c"])
        >>> len(sheet.cells), sheet.columns
        (3, 8)
    """
    tones = colours or ["plain"] * len(images)
    cells = [
        Cell(in_colour(image), caption, tone)  # (C, H, W) -> (H, W, 3)
        for image, caption, tone in zip(images, captions, tones, strict=True)
    ]
    return ContactSheet(cells, columns or 8, keeps_rows=columns is not None)
