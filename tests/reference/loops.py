"""The papers' formulas as plain loops in float64: slow, obvious, independent of the package."""

from __future__ import annotations

import math
from collections.abc import Callable

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


def matches(image_ids: list[tuple[int, ...]], text_ids: list[tuple[int, ...]]) -> set[tuple[int, int]]:
    """Images and texts with the same id at the same place, -1 being nobody's."""
    return {
        (i, j)
        for i, image in enumerate(image_ids)
        for j, text in enumerate(text_ids)
        if any(one == other != -1 for one, other in zip(image, text, strict=True))
    }


def softmax_loss_by_ids(
    images: np.ndarray,
    texts: np.ndarray,
    scale: float,
    pairs: set[tuple[int, int]],
    smoothing: float = 0.0,
    weight: float = 0.5,
) -> float:
    """Each direction's mean over the rows with a match of the cross-entropy with a target spread over the matches."""
    total = 0.0
    for rows, columns, own, share in (
        (images, texts, pairs, weight),
        (texts, images, {(j, i) for i, j in pairs}, 1 - weight),
    ):
        matched = sorted({i for i, _ in own})
        for i in matched:
            logits = [scale * float(rows[i] @ columns[j]) for j in range(len(columns))]
            log_sum = math.log(sum(math.exp(logit - max(logits)) for logit in logits)) + max(logits)
            positives = [j for j in range(len(columns)) if (i, j) in own]
            for j in range(len(columns)):
                target = (1 - smoothing) * (j in positives) / len(positives) + smoothing / len(columns)
                total += share / len(matched) * target * (log_sum - logits[j])
    return total


def sigmoid_loss_by_ids(images: np.ndarray, texts: np.ndarray, scale: float, bias: float, pairs: set[tuple[int, int]]) -> float:
    """Zhai et al. 2023, equation 1, over N images and M texts, with z = 1 for matches."""
    total = 0.0
    for i in range(len(images)):
        for j in range(len(texts)):
            z = (1.0 if (i, j) in pairs else -1.0) * (scale * float(images[i] @ texts[j]) + bias)
            total += max(-z, 0.0) + math.log1p(math.exp(-abs(z)))
    return total / len(images)


def gradient(function: Callable[[np.ndarray], float], value: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """By central differences of fourth order, whose error is about 1e-11 where third derivatives are about 1."""
    found = np.zeros_like(value)
    for place in np.ndindex(value.shape):
        moved = []
        for steps in (-2, -1, 1, 2):
            other = value.copy()
            other[place] += steps * step
            moved.append(function(other))
        found[place] = (moved[0] - 8 * moved[1] + 8 * moved[2] - moved[3]) / (12 * step)
    return found
