"""Ranks in both directions from a whole matrix of scores, for models whose scores are no inner products."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_clip.metrics.ranking import Ranks

__all__ = ["ranks_of_scores"]

_ROWS = 256  # captions whose rows of scores are looked at together


def ranks_of_scores(scores: Tensor, owner: Tensor) -> Ranks:
    """As `both_ranks`: from 1, another's score that equals the own one counts as ahead of it.

    Args:
        scores: (N, M), images by captions.
        owner: int64 (M,), row of each caption's image; every image has at least one.

    Examples:
        >>> ranks = ranks_of_scores(torch.eye(3)[:, [0, 1, 2, 1]], torch.tensor([0, 1, 2, 0]))
        >>> ranks.text_to_image.tolist(), ranks.image_to_text.tolist(), ranks.own.tolist()
        ([1, 1, 1, 3], [1, 2, 1], [1, 2, 1, 3])
    """
    number = torch.arange(len(owner), device=owner.device)
    own_scores = scores[owner, number]  # (M,)
    text_to_image = (scores >= own_scores).sum(dim=0)  # (N, M) -> (M,); its own counts as 1
    own = torch.empty_like(owner)
    for rows in torch.split(number, _ROWS):
        foreign = owner[rows, None] != owner  # (R, M)
        ahead = scores[owner[rows]] >= own_scores[rows, None]
        own[rows] = 1 + (ahead & foreign).sum(dim=1)
    best = torch.full((len(scores),), len(owner) + 1, dtype=own.dtype, device=own.device)
    return Ranks(text_to_image, best.scatter_reduce(0, owner, own, "amin"), own)
