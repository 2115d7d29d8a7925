"""Targets other than one pair a row: what they add to a loss whose tiles know pairs only.

A target that spreads over several columns changes a contrastive loss by sums of features, never by the matrix of logits:

- a softmax loss is a log-sum minus the mean logit of the positives, and a mean of logits is a logit of the mean;
- a sigmoid loss changes by minus the logit for each pair that counts as positive, since
  softplus(-z) - softplus(z) = -z.

So both additions cost O(B d), are exact whatever the tiles are, and vanish where every row has one positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.losses.checks import problem_of_ids
from lightning_clip.losses.exchange import Exchange

__all__ = ["Others", "caption_ids", "other_positives", "sigmoid_positives", "softmax_positives", "softmax_smoothing"]


class Others(NamedTuple):
    """The positives a row has beside its own pair, summed; for rows (M, D) that have any.

    Attributes:
        rows: int64 (M,), which rows of this rank.
        images: (M, D), the sum of the other positives' image features.
        texts: (M, D), likewise.
        size: (M,), how many they are.
    """

    rows: Tensor
    images: Tensor
    texts: Tensor
    size: Tensor


def caption_ids(tokens: Tensor, mask: Tensor) -> Tensor:
    """A number for each caption, the same for the same tokens on every rank, however far they are padded.

    Args:
        tokens: int64 (B, L).
        mask: bool (B, L), True on text, which begins at the left.

    Returns:
        int64 (B,); different captions share one with probability 2^-64 or so.

    Examples:
        >>> tokens = torch.tensor([[5, 6, 0], [5, 6, 0], [6, 5, 0]])
        >>> first, second, third = caption_ids(tokens, tokens > 0).tolist()
        >>> first == second, first == third
        (True, False)
    """
    # A polynomial in an odd base modulo 2^64, as integers overflow; twice, since low bits alone mix poorly.
    powers = torch.full((tokens.shape[1],), 6364136223846793005, device=tokens.device).cumprod(dim=0)
    mixed = (tokens + 1) * mask * powers
    mixed = (mixed ^ (mixed >> 29)) * 1181783497276652981
    return mixed.sum(dim=1)


def other_positives(images: Tensor, texts: Tensor, ids: Tensor, exchange: Exchange) -> Others:
    """Finds rows that share an id with other rows, on any rank, and adds up those rows' features.

    Args:
        images: (B, D) of this rank.
        texts: (B, D) of this rank.
        ids: int64 (B,) or (B, K) with K <= 2: two rows are positives of each other if they are equal in any column.
        exchange: how the ranks' rows meet.

    Raises:
        InputError: ids of another shape or type.
    """
    problem = problem_of_ids(ids, len(images), len(images), images.device)
    if problem:
        raise InputError(problem)
    keys = ids[:, None] if ids.ndim == 1 else ids
    both, count = images.new_zeros(len(images), 2 * images.shape[1]), images.new_zeros(len(images))
    features = torch.cat([images, texts], dim=1)
    for sign, group in _groups(exchange.all_rows(keys)):
        size = torch.bincount(group)
        shared = size > 1
        place = shared.cumsum(0) - 1  # of a shared group among the shared ones
        own = group[exchange.offset : exchange.offset + len(images)]
        rows = shared[own].nonzero().squeeze(1)
        sums = features.new_zeros(int(shared.sum()), features.shape[1]).index_add(0, place[own[rows]], features[rows])
        others = exchange.total_of(sums)[place[own[rows]]] - features[rows]
        both = both.index_add(0, rows, sign * others)
        count = count.index_add(0, rows, sign * (size[own[rows]] - 1).to(count.dtype))
    rows = (count > 0).nonzero().squeeze(1)
    other_images, other_texts = both[rows].chunk(2, dim=1)
    return Others(rows, other_images, other_texts, count[rows])


def _groups(keys: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Sign and group number (N,) of the sets whose signed sum is the union over columns (inclusion and exclusion)."""
    for column in keys.unbind(dim=1):
        yield 1, torch.unique(column, return_inverse=True)[1]
    if keys.shape[1] == 2:
        yield -1, torch.unique(keys, dim=0, return_inverse=True)[1]


def softmax_positives(images: Tensor, texts: Tensor, scale: Tensor, others: Others, image_weight: float) -> Tensor:
    """What it adds () to the sum over rows (B, D) that each target is spread over its positives (Khosla et al. 2020)."""
    image, text = images[others.rows], texts[others.rows]
    size = (others.size + 1)[:, None]
    to_text = (image * (text - (text + others.texts) / size)).sum()
    to_image = (text * (image - (image + others.images) / size)).sum()
    both: Tensor = image_weight * to_text + (1 - image_weight) * to_image
    return (scale * both).sum()


def softmax_smoothing(images: Tensor, texts: Tensor, scale: Tensor, exchange: Exchange) -> Tensor:
    """What it adds () to the sum over rows (B, D) that the target is spread evenly over all columns."""
    every_image, every_text = exchange.total_of(torch.stack([images.sum(dim=0), texts.sum(dim=0)]))
    # Of the two directions' means over all columns this rank holds its rows' share; both sum up to the same.
    mean: Tensor = 0.5 * (images.sum(dim=0) @ every_text + every_image @ texts.sum(dim=0)) / exchange.total
    return (scale * ((images * texts).sum() - mean)).sum()


def sigmoid_positives(images: Tensor, scale: Tensor, bias: Tensor | None, others: Others) -> Tensor:
    """What it adds () to the sum over rows (B, D) and columns that other positives count as pairs."""
    logits = (scale * (images[others.rows] * others.texts).sum()).sum()
    return -logits if bias is None else -logits - (bias * others.size.sum()).sum()
