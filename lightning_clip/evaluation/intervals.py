"""Confidence intervals of a share: how many of how many arrive, the lower and the upper end leave."""

from __future__ import annotations

import importlib
import math
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
    """The exact interval, from quantiles of the beta distribution; it covers the true share at least so often.

    low = B(a/2; k, n - k + 1), high = B(1 - a/2; k + 1, n - k), a = 1 - confidence (Clopper and Pearson 1934).

    Args:
        successes: k, from 0 to n.
        trials: n, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        InputError: a number outside its range.
    """
    _check(successes, trials, confidence)
    beta, tail = scipy_stats().beta, (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.isf(tail, successes + 1, trials - successes))
    return low, high


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval, good for small n and for shares near 0 and 1.

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n), p = k / n, z the normal quantile (Wilson 1927).

    Args:
        successes: k, from 0 to n.
        trials: n, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        InputError: a number outside its range.
    """
    _check(successes, trials, confidence)
    share, z = successes / trials, float(scipy_stats().norm.isf((1 - confidence) / 2))
    centre = share + z * z / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # At 0 and n one end is exact, where the formula leaves rounding.
    low = 0.0 if successes == 0 else (centre - reach) / scale
    high = 1.0 if successes == trials else (centre + reach) / scale
    return low, high


def _check(successes: int, trials: int, confidence: float) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise InputError(f"{successes} of {trials} is no share: give at least one trial and from 0 to all successes")
    if not 0 < confidence < 1:
        raise InputError(f"confidence {confidence} is outside (0, 1): give 0.95 for 95 %")
