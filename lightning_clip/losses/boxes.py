"""Losses of boxes: which place answers for which object, and what it loses by class, corners and overlap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from torchvision.ops import box_convert, generalized_box_iou_loss

__all__ = ["BoxWeights", "box_losses", "focal_loss", "matched_places", "matching_cost", "set_losses"]

_NEVER = 1e9  # what costs so much is not matched where anything else can be


class BoxWeights(NamedTuple):
    """What each part counts, in the matching and in the loss.

    Attributes:
        classes: of the focal loss.
        corners: of the L1 distance of centre, width and height.
        overlap: of 1 - GIoU.
        alpha: share of the positives in the focal loss, in [0, 1].
        gamma: how much less counts what is right already, >= 0.
    """

    classes: float = 2.0
    corners: float = 5.0
    overlap: float = 2.0
    alpha: float = 0.25
    gamma: float = 2.0


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Sigmoid focal loss of each logit (Lin et al. 2017, arXiv 1708.02002).

    -a_t (1 - p_t)^gamma log p_t, where p_t is the probability of what is true and a_t is alpha for positives, else 1 - alpha.

    Args:
        logits: of any shape.
        targets: 0 or 1, of that shape.
        alpha: share of the positives.
        gamma: as for `BoxWeights`.
    """
    told = logits.sigmoid()
    wrong = told * (1 - targets) + (1 - told) * targets
    share = alpha * targets + (1 - alpha) * (1 - targets)
    return share * wrong**gamma * binary_cross_entropy_with_logits(logits, targets, reduction="none")


def matching_cost(logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, weights: BoxWeights) -> Tensor:
    """What it would cost that a place answers for an object (B, Q, N): focal cost, L1 and -GIoU by their weights.

    The focal cost is what the loss of the object's class would change by (Zhu et al. 2020, arXiv 2010.04159).

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4), centre, width and height.
        labels: int64 (B, N), columns of `logits`.
        objects: (B, N, 4), corners.
        weights: of the parts.
    """
    told = logits.gather(2, labels[:, None].expand(-1, logits.shape[1], -1))  # (B, Q, C) -> (B, Q, N)
    share = told.sigmoid()
    positive = weights.alpha * (1 - share) ** weights.gamma * -logsigmoid(told)
    negative = (1 - weights.alpha) * share**weights.gamma * -logsigmoid(-told)
    shape = (*told.shape, 4)
    distance, overlap = box_losses(boxes[:, :, None].expand(shape), objects[:, None].expand(shape))  # (B, Q, N, 4) -> (B, Q, N)
    return weights.classes * (positive - negative) + weights.corners * distance + weights.overlap * (overlap - 1)


@torch.no_grad()
def matched_places(logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, weights: BoxWeights) -> Tensor:
    """The cheapest way to give each object a place of its own: int64 (M, 3) of row, place and object, M in all.

    Where a picture has more objects than places, some get none.

    Args:
        logits: as for `matching_cost`, and so the others.
        boxes: of places.
        labels: of objects, -1 where a row has fewer.
        objects: corners.
        weights: of the parts.
    """
    from scipy.optimize import linear_sum_assignment  # here: slow to import, and needed in training alone

    cost = matching_cost(logits, boxes, labels.clamp(min=0), objects, weights)
    costs = cost.nan_to_num(nan=_NEVER, posinf=_NEVER, neginf=-_NEVER).cpu().numpy()
    triples: list[tuple[int, int, int]] = []
    for row, given in enumerate((labels >= 0).tolist()):
        own = [place for place, is_object in enumerate(given) if is_object]
        if own:
            places, chosen = linear_sum_assignment(costs[row][:, own])
            triples += [(row, int(place), own[which]) for place, which in zip(places, chosen, strict=True)]
    return torch.tensor(triples, dtype=torch.int64, device=logits.device).reshape(-1, 3)


def box_losses(boxes: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """L1 distances and 1 - GIoU of boxes with one object each: (..., 4) -> (...).

    Args:
        boxes: centre, width and height.
        objects: corners.
    """
    distance = (boxes - box_convert(objects, "xyxy", "cxcywh")).abs().sum(dim=-1)
    # Without the usual 1e-7 beside the areas, which would be seen in those of small boxes; no area is 0 here.
    overlap: Tensor = generalized_box_iou_loss(box_convert(boxes, "cxcywh", "xyxy"), objects, eps=0.0)
    return distance, overlap


def set_losses(
    logits: Tensor, boxes: Tensor, labels: Tensor, objects: Tensor, counted: Tensor, weights: BoxWeights
) -> dict[str, Tensor]:
    """The sums of each picture (B,): "classes", the focal loss over places and classes, "corners", L1, and "overlap", 1 - GIoU
    over its objects.

    Args:
        logits: (B, Q, C).
        boxes: (B, Q, 4), centre, width and height.
        labels: int64 (B, N), columns of `logits`, -1 where a picture has fewer objects.
        objects: (B, N, 4), corners.
        counted: bool (B, C), the classes that each picture is asked for.
        weights: of the parts.
    """
    row, place, which = matched_places(logits, boxes, labels, objects, weights).unbind(dim=1)
    targets = torch.zeros_like(logits).index_put((row, place, labels[row, which]), logits.new_ones(()))
    lost = focal_loss(logits, targets, weights.alpha, weights.gamma) * counted[:, None]  # (B, Q, C)
    sums = torch.stack(box_losses(boxes[row, place], objects[row, which].to(boxes.dtype)))  # (2, M)
    distance, overlap = sums.new_zeros(2, len(logits)).index_add(1, row, sums)  # -> (B,) each
    return {"classes": lost.sum(dim=(1, 2)), "corners": distance, "overlap": overlap}
