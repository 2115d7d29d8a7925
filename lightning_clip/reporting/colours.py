"""Pictures of any number of channels as red, green and blue."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["in_colour"]


def in_colour(image: Any) -> np.ndarray:
    """The first three bands of a picture, or its first as grey where there are fewer: (C, H, W) -> (H, W, 3).

    Args:
        image: uint8 (C, H, W), a tensor or an array.

    Examples:
        >>> in_colour(np.zeros((13, 4, 6), np.uint8)).shape, in_colour(np.ones((1, 4, 6), np.uint8)).shape
        ((4, 6, 3), (4, 6, 3))
    """
    bands = np.asarray(image)
    chosen = bands[:3] if len(bands) >= 3 else np.repeat(bands[:1], 3, axis=0)
    return np.ascontiguousarray(chosen.transpose(1, 2, 0))
