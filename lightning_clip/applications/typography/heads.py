"""What attention heads do for the class token: where in a picture they look, and what they write."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.data.lettering import Box
from lightning_clip.encoders.dense import DenseView

__all__ = ["HeadStatistics", "head_statistics", "shares_of_boxes"]


class HeadStatistics(NamedTuple):
    """Of each head of N blocks with H heads each, for B pictures.

    Attributes:
        attention: float (N, B, H, rows * columns), of the class token to the places of the picture; the rest of its attention
            goes to the class token itself and other tokens of no place.
        written: float (N, B, H, D), what the head finds for the class token, before the output projection.
        rows: of the grid of places.
        columns: likewise.
    """

    attention: Tensor
    written: Tensor
    rows: int
    columns: int


@torch.no_grad()
def head_statistics(view: DenseView, image: Tensor) -> HeadStatistics:
    """What each head does for the class token.

    Args:
        view: of a tower with a class token, from `view_with_heads`.
        image: normalised float pixels (B, 3, S, S).
    """
    x, rows, columns = view.enter(image)  # (B, 3, S, S) -> (B, L, W)
    attention, written = [], []
    for block in view.blocks:
        query, key, value = view.parts(block).heads(x)  # (B, H, L, D) each
        first = query[:, :, :1] @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])  # (B, H, 1, D) @ (B, H, D, L)
        weights = first.softmax(dim=-1)  # (B, H, 1, L)
        attention.append(weights[:, :, 0, view.prefix :])
        written.append((weights @ value)[:, :, 0])  # (B, H, 1, L) @ (B, H, L, D) -> (B, H, D)
        x = view.run(block, x)
    return HeadStatistics(torch.stack(attention), torch.stack(written), rows, columns)


def shares_of_boxes(boxes: list[Box], side: int, rows: int, columns: int) -> Tensor:
    """Which places of a grid are covered by a box: those of which it covers a quarter or more; bool (B, rows * columns).

    Args:
        boxes: one a picture, in pixels.
        side: of the pictures in pixels.
        rows: of the grid.
        columns: of the grid.
    """
    starts = torch.tensor([[box.top, box.left] for box in boxes], dtype=torch.double)
    ends = torch.tensor([[box.bottom, box.right] for box in boxes], dtype=torch.double)
    shares = []
    for axis, count in enumerate((rows, columns)):
        edges = torch.linspace(0, side, count + 1, dtype=torch.double)
        overlap = torch.minimum(ends[:, axis, None], edges[1:]) - torch.maximum(starts[:, axis, None], edges[:-1])
        shares.append(overlap.clamp(min=0) * count / side)  # (B, count), of each row or column of places
    return (shares[0][:, :, None] * shares[1][:, None]).flatten(1) >= 0.25  # (B, rows, columns) -> (B, r c)
