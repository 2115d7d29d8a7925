"""Boxes in float64 loops: overlap, generalised overlap, matching, losses and average precision, from their papers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any

import numpy as np

__all__ = ["average_precision", "corners_of", "cost_of", "focal", "giou", "iou", "set_loss"]

Box = Sequence[float]


def corners_of(box: Box) -> list[float]:
    """Centre, width and height -> corners."""
    x, y, width, height = (float(part) for part in box)
    return [x - width / 2, y - height / 2, x + width / 2, y + height / 2]


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def common(one: Box, two: Box) -> float:
    return area([max(one[0], two[0]), max(one[1], two[1]), min(one[2], two[2]), min(one[3], two[3])])


def iou(one: Box, two: Box) -> float:
    both = common(one, two)
    return both / (area(one) + area(two) - both)


def giou(one: Box, two: Box) -> float:
    """Rezatofighi et al. 2019, algorithm 1."""
    union = area(one) + area(two) - common(one, two)
    hull = area([min(one[0], two[0]), min(one[1], two[1]), max(one[2], two[2]), max(one[3], two[3])])
    return common(one, two) / union - (hull - union) / hull


def focal(logit: float, true: bool, alpha: float, gamma: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    return -alpha * (1 - p) ** gamma * math.log(p) if true else -(1 - alpha) * p**gamma * math.log(1 - p)


def distance(box: Box, corners: Box) -> float:
    left, top, right, bottom = corners
    centred = ((left + right) / 2, (top + bottom) / 2, right - left, bottom - top)
    return sum(abs(one - two) for one, two in zip(box, centred, strict=True))


def cost_of(logits: Any, box: Box, label: int, corners: Box, weights: Any) -> float:
    """Of one place for one object."""
    alpha, gamma = weights.alpha, weights.gamma
    classes = focal(float(logits[label]), True, alpha, gamma) - focal(float(logits[label]), False, alpha, gamma)
    return (
        weights.classes * classes + weights.corners * distance(box, corners) - weights.overlap * giou(corners_of(box), corners)
    )


def set_loss(
    logits: Any, boxes: Any, labels: Sequence[int], objects: Sequence[Box], weights: Any
) -> tuple[float, float, float]:
    """Focal, L1 and 1 - GIoU sums of a picture; the matching is the best of all there are."""
    places = range(len(boxes))
    best = min(
        permutations(places, len(labels)),
        key=lambda chosen: sum(
            cost_of(logits[q], boxes[q], label, box, weights) for q, label, box in zip(chosen, labels, objects, strict=True)
        ),
    )
    true = {(place, label) for place, label in zip(best, labels, strict=True)}
    classes = sum(
        focal(float(logits[q][c]), (q, c) in true, weights.alpha, weights.gamma) for q in places for c in range(len(logits[0]))
    )
    corners = sum(distance(boxes[q], box) for q, box in zip(best, objects, strict=True))
    overlap = sum(1 - giou(corners_of(boxes[q]), box) for q, box in zip(best, objects, strict=True))
    return classes, corners, overlap


def average_precision(
    found: Sequence[Mapping[str, Any]], true: Sequence[Sequence[Box]], threshold: float, most: int = 100
) -> float:
    """Of one class, as COCO counts it: precision made falling, read at 101 recalls.

    Args:
        found: per picture "boxes" and "scores".
        true: per picture the boxes of its objects, none of them a crowd.
        threshold: overlap from which a box is right.
        most: boxes of a picture that count.
    """
    marks: list[tuple[float, int, bool]] = []
    for picture, (guesses, objects) in enumerate(zip(found, true, strict=True)):
        free = [True] * len(objects)
        order = sorted(range(len(guesses["scores"])), key=lambda row: -float(guesses["scores"][row]))[:most]
        for row in order:
            best, own = min(threshold, 1 - 1e-10), None
            for place, box in enumerate(objects):
                if free[place] and (overlap := iou(guesses["boxes"][row], box)) >= best:
                    best, own = overlap, place
            if own is not None:
                free[own] = False
            marks.append((float(guesses["scores"][row]), picture, own is not None))
    marks.sort(key=lambda mark: -mark[0])
    total = sum(map(len, true))
    right = np.cumsum([mark[2] for mark in marks]) if marks else np.zeros(0)
    recall, precision = right / total, right / np.arange(1, len(marks) + 1)
    for place in range(len(precision) - 2, -1, -1):
        precision[place] = max(precision[place], precision[place + 1])
    values = []
    for point in np.linspace(0, 1, 101):
        place = int(np.searchsorted(recall, point, side="left"))
        values.append(float(precision[place]) if place < len(precision) else 0.0)
    return float(np.mean(values))
