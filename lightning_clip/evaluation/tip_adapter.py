"""Tip-Adapter (Zhang et al. 2021): logits from a few labelled features, mixed with the zero-shot classifier."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize, one_hot

__all__ = ["TipAdapter", "tip_logits", "tune_keys"]

_ALPHAS = (0.0, 0.1, 0.3, 1.0, 2.0, 3.0, 5.0, 10.0)
_BETAS = (1.0, 2.0, 3.5, 5.5, 8.0, 12.0, 20.0, 40.0)


def tip_logits(
    image_features: Tensor,
    classifier: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    scale: float | Tensor,
    alpha: float | Tensor,
    beta: float | Tensor,
) -> Tensor:
    """Scale f W + alpha exp(-beta (1 - f K^T)) V (Zhang et al. 2021, arXiv 2111.03930, equations 4 to 6).

    Args:
        image_features: unit (N, D).
        classifier: zero-shot, (D, C).
        keys: features of the labelled images, (S, D).
        values: their classes, one-hot (S, C).
        scale: the model's inverse temperature.
        alpha: weight of the labelled images; 0 is zero-shot.
        beta: sharpness of their influence.
    """
    affinity = torch.exp(-beta * (1 - image_features @ keys.T))
    return scale * image_features @ classifier + alpha * affinity @ values


class TipAdapter(NamedTuple):
    """A fitted adapter.

    Attributes:
        keys: (S, D).
        values: (S, C).
        alpha: see `tip_logits`.
        beta: see `tip_logits`.
    """

    keys: Tensor
    values: Tensor
    alpha: float
    beta: float

    @classmethod
    def searched(
        cls, keys: Tensor, values: Tensor, features: Tensor, label: Tensor, classifier: Tensor, scale: float
    ) -> TipAdapter:
        """The alpha and beta of a grid that are best on labelled images; of equals the smaller ones.

        Args:
            keys: unit features (S, D) of the support images.
            values: their classes as rows of 0 and 1, (S, C).
            features: unit features (N, D) of the images to choose on.
            label: their classes int64 (N,).
            classifier: zero-shot, (D, C).
            scale: the model's inverse temperature.
        """
        best, found = -1.0, cls(keys, values, 0.0, 1.0)
        for alpha, beta in product(_ALPHAS, _BETAS):
            logits = tip_logits(features, classifier, keys, values, scale=scale, alpha=alpha, beta=beta)
            right = float((logits.argmax(dim=1) == label).double().mean())
            if right > best:
                best, found = right, cls(keys, values, alpha, beta)
        return found

    def predict(self, features: Tensor, classifier: Tensor, scale: float) -> Tensor:
        """Classes int64 (N,).

        Args:
            features: unit (N, D).
            classifier: zero-shot, (D, C).
            scale: the model's inverse temperature.
        """
        parts = [
            tip_logits(part, classifier, self.keys, self.values, scale=scale, alpha=self.alpha, beta=self.beta).argmax(dim=1)
            for part in torch.split(features, 4096)
        ]
        return torch.cat(parts)


def tune_keys(
    features: Tensor,
    label: Tensor,
    classifier: Tensor,
    scale: float,
    *,
    epochs: int = 20,
    lr: float = 1e-3,
    alpha: float = 1.0,
    beta: float = 5.5,
    seed: int = 0,
) -> Tensor:
    """The keys of Tip-Adapter-F: they begin as the labelled features and are trained with cross-entropy by AdamW.

    Args:
        features: unit (S, D), of the labelled images.
        label: int64 (S,).
        classifier: zero-shot, (D, C).
        scale: the model's inverse temperature.
        epochs: over the labelled images, in batches of 256, with a cosine schedule.
        lr: at the start.
        alpha: while training.
        beta: while training.
        seed: of the order.
    """
    values = one_hot(label, classifier.shape[1]).to(features)
    keys = torch.nn.Parameter(features.clone())
    optimizer = torch.optim.AdamW([keys], lr=lr, eps=1e-4)
    steps = epochs * -(-len(features) // 256)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in range(epochs):
            for rows in torch.split(torch.randperm(len(features), generator=generator), 256):
                logits = tip_logits(features[rows], classifier, keys, values, scale=scale, alpha=alpha, beta=beta)
                optimizer.zero_grad()
                cross_entropy(logits, label[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    return normalize(keys.detach(), dim=1)
