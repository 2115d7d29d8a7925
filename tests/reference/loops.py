"""The papers' formulas as plain loops in float64: slow, obvious, independent of the package."""

from __future__ import annotations

import math

import numpy as np


def softmax_loss(images: np.ndarray, texts: np.ndarray, scale: float, image_weight: float = 0.5) -> float:
    """Radford et al. 2021, Figure 3, with a weight per direction (Zhang et al. 2020, equation 4)."""
    count, total = len(images), 0.0
    for i in range(count):
        own = scale * float(images[i] @ texts[i])
        over_texts = sum(math.exp(scale * float(images[i] @ texts[j]) - own) for j in range(count))
        over_images = sum(math.exp(scale * float(images[j] @ texts[i]) - own) for j in range(count))
        total += image_weight * math.log(over_texts) + (1 - image_weight) * math.log(over_images)
    return total / count


def sigmoid_loss(images: np.ndarray, texts: np.ndarray, scale: float, bias: float) -> float:
    """Zhai et al. 2023, equation 1."""
    count, total = len(images), 0.0
    for i in range(count):
        for j in range(count):
            sign = 1.0 if i == j else -1.0
            total += math.log1p(math.exp(-sign * (scale * float(images[i] @ texts[j]) + bias)))
    return total / count


def softmax_loss_with_positives(
    images: np.ndarray, texts: np.ndarray, scale: float, positives: list[set[int]], smoothing: float = 0.0, weight: float = 0.5
) -> float:
    """Cross-entropy with a target spread evenly over each row's positives, and a share `smoothing` over all columns."""
    count, total = len(images), 0.0
    for i in range(count):
        for direction, share in (("text", weight), ("image", 1 - weight)):
            logits = [
                scale * float(images[i] @ texts[j] if direction == "text" else images[j] @ texts[i]) for j in range(count)
            ]
            log_sum = math.log(sum(math.exp(logit - max(logits)) for logit in logits)) + max(logits)
            for j in range(count):
                target = (1 - smoothing) * (j in positives[i]) / len(positives[i]) + smoothing / count
                total += share * target * (log_sum - logits[j])
    return total / count


def sigmoid_loss_with_positives(
    images: np.ndarray, texts: np.ndarray, scale: float, bias: float, positives: list[set[int]]
) -> float:
    """Zhai et al. 2023, equation 1, with z = 1 for all positives of a row."""
    count, total = len(images), 0.0
    for i in range(count):
        for j in range(count):
            sign = 1.0 if j in positives[i] else -1.0
            total += math.log1p(math.exp(-sign * (scale * float(images[i] @ texts[j]) + bias)))
    return total / count
