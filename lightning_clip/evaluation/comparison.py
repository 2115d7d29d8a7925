"""Confidence intervals of a mean over images, and of the difference of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError

__all__ = ["Interval", "bootstrap_interval", "paired_bootstrap"]

_AT_ONCE = 1 << 22  # drawn values held at a time
_DISTINCT = 100


class Interval(NamedTuple):
    """A mean with its interval.

    Attributes:
        mean: of all values.
        low: lower end.
        high: upper end.
    """

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, confidence: float = 0.95, rounds: int = 2000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean (Efron 1979).

    Args:
        values: one per image, (N,).
        confidence: in (0, 1).
        rounds: of drawing N values with replacement.
        seed: of the draws; the same interval on every machine.

    Raises:
        InputError: no value, or a confidence out of range.

    Examples:
        >>> bootstrap_interval([1.0] * 10)
        Interval(mean=1.0, low=1.0, high=1.0)
    """
    given = np.asarray(values, dtype=np.float64)
    if not given.size or not 0 < confidence < 1:
        raise InputError(f"an interval needs values (got {given.size}) and a confidence in (0, 1) (got {confidence})")
    means = _means(given, rounds, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(given.mean()), float(low), float(high))


def _means(values: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """Means of so many draws of N values with replacement."""
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _DISTINCT:  # how often each is drawn is multinomial: right and wrong need no N draws
        drawn: np.ndarray = rng.multinomial(len(values), counts / len(values), rounds) @ distinct / len(values)
        return drawn
    at_once = max(1, _AT_ONCE // len(values))
    parts = [
        values[rng.integers(0, len(values), (min(at_once, rounds - done), len(values)))].mean(axis=1)
        for done in range(0, rounds, at_once)
    ]
    return np.concatenate(parts)


def paired_bootstrap(
    first: Sequence[float], second: Sequence[float], confidence: float = 0.95, rounds: int = 2000, seed: int = 0
) -> Interval:
    """Interval of the difference of two models' means on the same images, first minus second.

    Args:
        first: one per image, (N,).
        second: of the same images in the same order.
        confidence: in (0, 1).
        rounds: of drawing.
        seed: of the draws.

    Raises:
        InputError: different numbers of images.
    """
    if len(first) != len(second):
        raise InputError(f"the models were measured on {len(first)} and {len(second)} images: compare them on the same ones")
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return bootstrap_interval(difference, confidence, rounds, seed)
