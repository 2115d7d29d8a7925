"""A map of a collection: unit features -> points in the plane by principal components."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lightning_clip.data.decoding import decode

__all__ = ["Projection", "mean_colour", "project"]

_NO_COLOUR = (128, 128, 128)


class Projection(NamedTuple):
    """Points of a map.

    Attributes:
        points: float32 (N, 2), from -1 to 1, the same scale on both axes.
        explained: share of the variance along each axis, from 0 to 1.
    """

    points: np.ndarray
    explained: tuple[float, float]


def project(features: np.ndarray) -> Projection:
    """The two directions along which features differ most.

    Args:
        features: float32 (N, D).

    Returns:
        The points; the sign of an axis is such that its largest loading is positive, so that a map stays as it is.

    Examples:
        >>> found = project(np.array([[0.0, 1, 0], [0, -1, 0], [0.1, 0, 0], [-0.1, 0, 0]]))
        >>> found.points[:, 0].tolist(), round(found.explained[0], 2)
        ([1.0, -1.0, 0.0, 0.0], 0.99)
    """
    if not len(features):
        return Projection(np.zeros((0, 2), np.float32), (0.0, 0.0))
    centred = np.asarray(features, np.float64) - features.mean(axis=0, dtype=np.float64)
    values, directions = np.linalg.eigh(centred.T @ centred)  # (D, D): ascending
    axes = directions[:, [-1, -2]] if directions.shape[1] > 1 else np.pad(directions, ((0, 0), (0, 1)))  # (D, 2)
    largest = axes[np.abs(axes).argmax(axis=0), [0, 1]]  # (2,)
    points = centred @ (axes * np.where(largest < 0, -1, 1))  # (N, D) @ (D, 2) -> (N, 2)
    points /= max(np.abs(points).max(), 1e-12)
    total = max(float(values.sum()), 1e-12)
    shares = [max(float(value), 0.0) / total for value in values[::-1][:2]]
    return Projection(points.astype(np.float32), (shares[0], shares[1] if len(shares) > 1 else 0.0))


def mean_colour(thumbnail: bytes) -> tuple[int, int, int]:
    """Red, green and blue of a small picture, from 0 to 255; grey where it cannot be read.

    Args:
        thumbnail: encoded, may be empty.
    """
    if not thumbnail:
        return _NO_COLOUR
    try:
        pixels = decode(thumbnail)  # uint8 (3, H, W)
    except ValueError:
        return _NO_COLOUR
    red, green, blue = pixels[:, ::4, ::4].float().mean(dim=(1, 2)).round().int().tolist()
    return red, green, blue
