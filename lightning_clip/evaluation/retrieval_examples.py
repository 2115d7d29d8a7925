"""Captions to look at, spread over a set, and the images that a model finds for them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["spread_queries"]


def spread_queries(
    image_features: Tensor, image_index: Tensor, text_features: Tensor, queries: int, shown: int
) -> list[tuple[int, list[int]]]:
    """For some captions, from the first to the last, the images that rank first.

    Args:
        image_features: unit, float (N, D).
        image_index: int64 (N,), the images' places in their source.
        text_features: unit, float (M, D).
        queries: captions to choose, fewer where M is less.
        shown: images of each, fewer where N is less.

    Returns:
        (row of the caption, places of its images, best first) each.

    Examples:
        >>> spread_queries(torch.eye(3), torch.tensor([7, 8, 9]), torch.eye(3)[[2, 0, 1]], queries=2, shown=1)
        [(0, [9]), (2, [8])]
    """
    rows = torch.linspace(0, len(text_features) - 1, min(queries, len(text_features))).long().tolist()
    many = min(shown, len(image_features))
    found = []
    for row in rows:
        best = (image_features @ text_features[row]).topk(many).indices  # (N, D) @ (D,) -> (shown,)
        found.append((row, image_index[best].tolist()))
    return found
