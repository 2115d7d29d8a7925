"""Losses of bags: each row has a few entries of a vocabulary, with weights; no dense target (B, V) is made."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["Bags", "bag_loss"]


class Bags(NamedTuple):
    """The entries of all rows of a batch, one after the other: E of them in all.

    Attributes:
        rows: int64 (E,), whose entry it is.
        entries: int64 (E,), places in the vocabulary.
        shares: float (E,), weights that add up to 1 in each row that has any.
        counts: float (E,), how many entries its row has.
    """

    rows: Tensor
    entries: Tensor
    shares: Tensor
    counts: Tensor


def bag_loss(logits: Tensor, bags: Bags, prediction: str = "softmax") -> Tensor:
    """The loss (B,) of each row; 0 for a softmax over a row without entries.

    With the shares s_k of a row's entries K and logits z over the vocabulary V it is, for "softmax" (Joulin et al. 2016;
    Mahajan et al. 2018), with k = |K| equal shares 1/k:

        -sum_K s_k log softmax(z)_k = sum_K s_k (logsumexp(z) - z_k)

    and for "binary", each entry for itself, those of the row weighed by |K| s_k, whose mean is 1:

        sum_K |K| s_k softplus(-z_k) + sum_(V without K) softplus(z_v)

    Args:
        logits: (B, V), in float32 or better, or they are taken to float32.
        bags: of the same B rows.
        prediction: "softmax" or "binary".

    Examples:
        >>> one = Bags(torch.tensor([0]), torch.tensor([2]), torch.ones(1), torch.ones(1))
        >>> bag_loss(torch.zeros(1, 8), one)  # log 8
        tensor([2.0794])
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rows, entries, shares, counts = bags.rows, bags.entries, bags.shares.to(logits.dtype), bags.counts.to(logits.dtype)
    own = logits[rows, entries]  # (B, V) -> (E,)
    none = logits.new_zeros(len(logits))  # (B,)
    if prediction == "softmax":
        return none.index_add(0, rows, shares) * logits.logsumexp(dim=1) - none.index_add(0, rows, shares * own)
    return softplus(logits).sum(dim=1) + none.index_add(0, rows, counts * shares * softplus(-own) - softplus(own))
