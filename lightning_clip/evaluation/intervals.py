"""Confidence intervals of a share, so many of so many: the lower and the upper end."""

from __future__ import annotations

import importlib
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["clopper_pearson", "scipy_stats", "wilson"]


def scipy_stats() -> Any:
    """The module scipy.stats.

    Raises:
        InputError: scipy is missing.
    """
    try:
        return importlib.import_module("scipy.stats")
    except ImportError as error:
        raise InputError('this needs scipy: pip install "lightning-clip[evaluation]"') from error


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval, which covers the true share at least so often (Clopper and Pearson 1934).

    Args:
        successes: k, from 0 to n.
        trials: n, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        InputError: a number outside its range, or scipy is missing.

    Examples:
        >>> [round(end, 4) for end in clopper_pearson(9, 10)]
        [0.555, 0.9975]
    """
    return _interval(successes, trials, confidence, "exact")


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval, good for small n and for shares near 0 and 1 (Wilson 1927).

    Args:
        successes: k, from 0 to n.
        trials: n, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        InputError: a number outside its range, or scipy is missing.

    Examples:
        >>> [round(end, 4) for end in wilson(9, 10)]
        [0.5958, 0.9821]
    """
    return _interval(successes, trials, confidence, "wilson")


def _interval(successes: int, trials: int, confidence: float, method: str) -> tuple[float, float]:
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials} is no share: give at least one trial and from 0 to all successes")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0, 1): give 0.95 for 95 %")
    found = scipy_stats().binomtest(successes, trials).proportion_ci(confidence, method)
    # At 0 and n one end is exact, where Wilson's formula leaves rounding.
    return 0.0 if successes == 0 else float(found.low), 1.0 if successes == trials else float(found.high)
