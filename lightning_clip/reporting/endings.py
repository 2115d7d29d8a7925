"""Where recipes end, over seeds: the mean with its interval, and the difference from one of them on the same seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.reporting.efficiency import Curve

__all__ = ["Ending", "ending_table", "endings", "mean_interval"]


@dataclass(frozen=True)
class Ending:
    """The last values of a recipe's runs.

    Attributes:
        name: of the recipe.
        values: in [0, 1], one a seed.
        half_width: of the 95 % interval of their mean; infinite for one seed.
        difference: mean difference from the reference on the same seeds; None for the reference itself, or without one.
        difference_half_width: of its 95 % interval.
    """

    name: str
    values: Sequence[float]
    half_width: float
    difference: float | None = None
    difference_half_width: float | None = None


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Mean and half the width of Student's interval, t_(n-1) s / sqrt(n) (Student 1908).

    Args:
        values: n of them, independent; with one the width is infinite.
        confidence: in (0, 1).

    Examples:
        >>> mean, half = mean_interval([0.1, 0.2, 0.3])
        >>> round(mean, 3), round(half, 3)  # t_2 = 4.303, s = 0.1
        (0.2, 0.248)
    """
    if len(values) < 2:
        return fmean(values), math.inf
    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    return fmean(values), quantile * stdev(values) / math.sqrt(len(values))


def endings(curves: Mapping[str, Sequence[Curve]], reference: str | None = None) -> list[Ending]:
    """The last values of each recipe, the reference first and then the best first.

    Args:
        curves: name -> its curves, one a seed, of the same seeds in the same order.
        reference: from which the others differ.

    Raises:
        InputError: no recipe of the reference's name.
    """
    if reference is not None and reference not in curves:
        raise InputError(f"--reference {reference!r} is none of the recipes: {nearest(reference, curves)}")
    last = {name: [curve[-1][1] for curve in own] for name, own in curves.items()}
    found = []
    for name in sorted(last, key=lambda name: (name != reference, -fmean(last[name]))):
        difference: tuple[float, float] | tuple[None, None] = (None, None)
        if reference is not None and name != reference:
            difference = mean_interval([own - other for own, other in zip(last[name], last[reference], strict=True)])
        found.append(Ending(name, last[name], mean_interval(last[name])[1], *difference))
    return found


def ending_table(found: Sequence[Ending], title: str) -> str:
    """A table in Markdown, in percent.

    Args:
        found: as `endings` gives them.
        title: of the column of values.
    """
    compared = any(one.difference is not None for one in found)
    head = ["recipe", f"{title}, %", "of each seed", *(["difference"] if compared else [])]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for one in found:
        cells = [one.name, _with_interval(fmean(one.values), one.half_width)]
        cells.append(", ".join(f"{100 * value:.1f}" for value in one.values))
        if compared:
            own = one.difference is None
            cells.append("" if own else _with_interval(one.difference or 0.0, one.difference_half_width or 0.0, "+"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_interval(mean: float, half_width: float, sign: str = "") -> str:
    return f"{100 * mean:{sign}.1f}" + (f" ± {100 * half_width:.1f}" if math.isfinite(half_width) else "")
