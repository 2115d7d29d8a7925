"""Images that occur more than once in a set: the captions of one then count as wrong for the other."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

__all__ = ["repeated_images", "warn_of_repeats"]

log = logging.getLogger(__name__)
_STEPS = 1e4  # of a unit feature's values: what the size of a batch changes by rounding is smaller


def repeated_images(features: Tensor) -> int:
    """How many images have the very features of an earlier one.

    Args:
        features: (N, D) of unit length.

    Examples:
        >>> repeated_images(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
        1
    """
    return len(features) - len(torch.unique((features.float() * _STEPS).round(), dim=0)) if len(features) else 0


def warn_of_repeats(features: Tensor, where: str) -> None:
    """Says how many images repeat, if some do.

    Args:
        features: of a set's images, (N, D) of unit length.
        where: the set, for people.
    """
    if repeats := repeated_images(features):
        log.warning(
            "%s: %d of %d images have the features of an earlier one. If they are the same picture under several names, each "
            "caption counts only its own copy as right: make one row of them with all captions (`lightning-clip data curate` "
            "with duplicates finds them)",
            where,
            repeats,
            len(features),
        )
