"""The part of a large batch from which most can be learned: chosen jointly, as pairs are hard only among others (JEST)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["learnable_rows", "odds"]


def learnable_rows(
    learner: Tensor, reference: Tensor, count: int, chunks: int = 16, generator: torch.Generator | None = None
) -> Tensor:
    """Rows of a batch of N pairs, chosen in chunks: the more what is chosen would lose with them, the likelier.

    A pair's score given those already chosen is the sum of its learnability with itself and with them, where the
    learnability of image i and text j is the learner's loss of them minus the reference's: softplus(-z s_ij) each, with z = 1
    for pairs and -1 otherwise (Evans et al. 2024, arXiv 2406.17711, algorithm 1).

    Args:
        learner: log odds (N, N) of the model that is trained, see `odds`.
        reference: log odds (N, N) of a model that has been trained on good data.
        count: rows to choose, at most N.
        chunks: in which they are drawn.
        generator: of the draws; None takes torch's.

    Returns:
        int64 (count,), sorted.

    Examples:
        >>> reference = 20 * (2 * torch.eye(4) - 1)
        >>> learner = reference.clone()
        >>> learner[2, 2] = -30.0  # a pair that is not learned yet
        >>> learnable_rows(learner, reference, 1)
        tensor([2])
    """
    sign = 2 * torch.eye(len(learner), device=learner.device) - 1
    scores = softplus(-sign * learner) - softplus(-sign * reference)  # (N, N)
    own, among = scores.diagonal().clone(), scores + scores.T
    chosen = torch.zeros(len(learner), dtype=torch.bool, device=learner.device)
    sizes = [len(part) for part in torch.arange(count).tensor_split(min(chunks, count))]
    for size in sizes:
        now = (own + among[:, chosen].sum(dim=1)).masked_fill(chosen, -torch.inf)  # (N,)
        # The largest of scores with Gumbel noise: drawn without putting back, each in proportion to e^score.
        noise = -torch.empty(len(now)).exponential_(generator=generator).log_().to(now.device)
        chosen[(now + noise).topk(size).indices] = True
    return chosen.nonzero()[:, 0]


def odds(logits: Tensor) -> Tensor:
    """Logits (N, N) up to a constant -> log odds that image i and text j belong together, by the softmax over texts.

    log p - log(1 - p) = s_ij - log sum_(k != j) e^(s_ik), so that models with and without a bias can be compared.

    Args:
        logits: of images by texts, N > 1.

    Examples:
        >>> odds(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
        tensor([[ 0.,  0.],
                [-1.,  1.]])
    """
    logs = logits.double().log_softmax(dim=1)  # (N, N)
    return (logs - (-torch.expm1(logs)).clamp_min(1e-300).log()).float()
