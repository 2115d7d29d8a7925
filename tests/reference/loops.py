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
