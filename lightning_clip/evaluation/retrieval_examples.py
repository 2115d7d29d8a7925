"""Captions to look at, spread over a set, and the images that a model finds for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["spread_queries"]


def spread_queries(
    scores: Callable[[int], Tensor], image_index: Tensor, texts: int, queries: int, shown: int
) -> list[tuple[int, list[int]]]:
    """For some captions, from the first to the last, the images that rank first.

    Args:
        scores: row of a caption -> its scores with all images, float (N,).
        image_index: int64 (N,), the images' places in their source.
        texts: M captions.
        queries: captions to choose, fewer where M is less.
        shown: images of each, fewer where N is less.

    Returns:
        (row of the caption, places of its images, best first) each.

    Examples:
        >>> texts = torch.eye(3)[[2, 0, 1]]
        >>> spread_queries(lambda row: texts[row], torch.tensor([7, 8, 9]), 3, queries=2, shown=1)
        [(0, [9]), (2, [8])]
    """
    rows = torch.linspace(0, texts - 1, min(queries, texts)).long().tolist()
    many = min(shown, len(image_index))
    return [(row, image_index[scores(row).topk(many).indices].tolist()) for row in rows]
