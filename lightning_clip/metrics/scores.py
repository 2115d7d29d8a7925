"""Figures of a retrieval from its ranks: recall, median rank and mean average precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_clip.metrics.checks import check_retrieval
from lightning_clip.metrics.dense_ranks import ranks_of_scores
from lightning_clip.metrics.ranking import Ranks, both_ranks

__all__ = ["caption_average_precision", "matrix_scores", "retrieval_scores", "summary"]


def caption_average_precision(own: Tensor, owner: Tensor, images: int) -> Tensor:
    """Mean over images of the average precision of their captions, float64 ().

    The j-th best own caption is at place own_j + j - 1 of the whole list, j of the captions up to there being own.

    Args:
        own: int64 (M,), `Ranks.own`.
        owner: int64 (M,).
        images: N.
    """
    order = own.argsort(stable=True)
    order = order[owner[order].argsort(stable=True)]
    ranks, owners = own[order].double(), owner[order]
    starts = torch.searchsorted(owners, torch.arange(images, device=owners.device))
    number = torch.arange(len(owners), device=owners.device) - starts[owners] + 1
    precision = number / (ranks + number - 1)
    counts = torch.bincount(owners, minlength=images)
    total = torch.zeros(images, dtype=torch.float64, device=owners.device).index_add_(0, owners, precision)
    return (total / counts).mean()


def retrieval_scores(
    image_features: Tensor,
    text_features: Tensor,
    text_image_index: Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    image_index: Tensor | None = None,
    with_precision: bool = True,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """`retrieval_metrics` with mean average precision, and the ranks behind them.

    Args:
        image_features: (N, D) of unit length.
        text_features: (M, D) of unit length.
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs, at least 1 each.
        image_index: integers (N,), the images' own numbers, all different; None counts 0 to N - 1.
        with_precision: False saves the time of ".../mean_average_precision".

    Returns:
        Metrics by name, and the ranks int64 of "text_to_image" (M,) and "image_to_text" (N,).

    Raises:
        InputError: as `retrieval_metrics`.
    """
    index = check_retrieval(image_features, text_features, text_image_index, ks, image_index)
    order = index.argsort()
    owner = order[torch.searchsorted(index[order], text_image_index.to(index))]
    ranks = both_ranks(image_features, text_features, owner, each_caption=with_precision)
    return _figures(ranks, owner, len(index), ks, with_precision)


def matrix_scores(
    scores: Tensor, text_image_index: Tensor, ks: Sequence[int] = (1, 5, 10), *, image_index: Tensor | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """As `retrieval_scores`, from scores that are there: for models that score a pair by more than its features.

    Args:
        scores: (N, M), images by captions, higher for likelier.
        text_image_index: integers (M,), the image of each caption.
        ks: cut-offs, at least 1 each.
        image_index: integers (N,), the images' own numbers, all different; None counts 0 to N - 1.

    Raises:
        InputError: as `retrieval_metrics`.
    """
    index = check_retrieval(scores, scores.T, text_image_index, ks, image_index, one_space=False)
    order = index.argsort()
    owner = order[torch.searchsorted(index[order], text_image_index.to(index))]
    return _figures(ranks_of_scores(scores, owner), owner, len(index), ks, True)


def _figures(
    ranks: Ranks, owner: Tensor, images: int, ks: Sequence[int], with_precision: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    found = {"image_to_text": ranks.image_to_text, "text_to_image": ranks.text_to_image}
    precision = caption_average_precision(ranks.own, owner, images) if with_precision else None
    return summary(found, ks, precision), found


def summary(ranks: Mapping[str, Tensor], ks: Sequence[int], precision: Tensor | None = None) -> dict[str, Tensor]:
    """Metrics by name, each ().

    Args:
        ranks: int64 of "text_to_image" (M,) and "image_to_text" (N,).
        ks: cut-offs of the recall.
        precision: float64 (), mean average precision of images' captions; None for results without it.
    """
    result: dict[str, Tensor] = {}
    for direction, of_queries in ranks.items():
        for k in ks:
            result[f"{direction}/recall@{k}"] = (of_queries <= k).float().mean()
        ordered = of_queries.sort().values
        result[f"{direction}/median_rank"] = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if precision is not None:
        result["image_to_text/mean_average_precision"] = precision.float()
        result["text_to_image/mean_average_precision"] = (1 / ranks["text_to_image"].double()).mean().float()
    return result
