"""Distillation's formulas as plain loops in float64."""

from __future__ import annotations

import math

import numpy as np


def relational_kl(
    images: np.ndarray,
    texts: np.ndarray,
    scale: float,
    teacher_images: np.ndarray,
    teacher_texts: np.ndarray,
    teacher_scale: float,
) -> float:
    """Mean over images and texts of KL(teacher's distribution over the other side || student's)."""
    count, total = len(images), 0.0
    for rows, columns, teacher_rows, teacher_columns in (
        (images, texts, teacher_images, teacher_texts),
        (texts, images, teacher_texts, teacher_images),
    ):
        for i in range(count):
            own = [math.exp(scale * float(rows[i] @ columns[j])) for j in range(count)]
            target = [math.exp(teacher_scale * float(teacher_rows[i] @ teacher_columns[j])) for j in range(count)]
            for j in range(count):
                p, q = target[j] / sum(target), own[j] / sum(own)
                total += p * math.log(p / q)
    return total / (2 * count)
