"""Learning curves beside each other: images until an accuracy is reached, and how many times fewer one recipe needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

__all__ = ["Curve", "Factor", "efficiency_figure", "factor", "images_until", "levels"]

Curve = Sequence[tuple[float, float]]  # (images processed, accuracy in [0, 1]), by rising images
_GREY = "#8a8f98"


@dataclass(frozen=True)
class Factor:
    """How many times fewer images one recipe needs than another to reach an accuracy.

    Args:
        better: its name.
        other: the other's.
        level: the accuracy.
        mean: geometric mean over seeds.
        low: the smallest of all seeds.
        high: the largest.
        bound: whether a run of the other never reached the level, so that these are lower bounds.
    """

    better: str
    other: str
    level: float
    mean: float
    low: float
    high: float
    bound: bool

    def __str__(self) -> str:
        least = "at least " if self.bound else ""
        times = f"{least}{self.mean:.1f}x fewer images than {self.other} ({self.low:.1f} to {self.high:.1f})"
        return f"{self.better} reaches {100 * self.level:.1f} % with {times}"


def images_until(curve: Curve, level: float) -> float | None:
    """Images after which a curve first reaches an accuracy, interpolated in the logarithm of images; None if it never does.

    Examples:
        >>> images_until([(100, 0.1), (400, 0.3)], 0.2)
        200.0
        >>> images_until([(100, 0.1), (400, 0.3)], 0.4) is None
        True
    """
    before: tuple[float, float] | None = None
    for images, accuracy in curve:
        if accuracy >= level:
            if before is None:
                return float(images)
            share = (level - before[1]) / (accuracy - before[1])
            return round(math.exp(math.log(before[0]) + share * math.log(images / before[0])), 6)
        before = (images, accuracy)
    return None


def factor(name: str, better: Sequence[Curve], other_name: str, other: Sequence[Curve], level: float) -> Factor | None:
    """Images of `other` over images of `better` at an accuracy, seed by seed; None where `better` itself misses it.

    A run of `other` that misses the level counts with all its images, which makes the factor a lower bound.

    Args:
        name: of the better recipe.
        better: its curves, one a seed.
        other_name: of the other recipe.
        other: its curves, of the same seeds in the same order.
        level: accuracy in (0, 1].
    """
    found = []
    bound = False
    for own, theirs in zip(better, other, strict=True):
        if (least := images_until(own, level)) is None:
            return None
        most = images_until(theirs, level)
        bound |= most is None
        found.append((theirs[-1][0] if most is None else most) / least)
    mean = math.exp(fmean(math.log(value) for value in found))
    return Factor(name, other_name, level, mean, min(found), max(found), bound)


def levels(curves: Mapping[str, Sequence[Curve]], level: float | None = None) -> list[Factor]:
    """The factors between recipes that follow each other in their final accuracy, the best first.

    Args:
        curves: name -> its curves, one a seed.
        level: the accuracy at which images are counted; None takes, for each two, the highest that every run of the weaker
            one reaches.
    """
    if all(len(curve) == 1 for own in curves.values() for curve in own):
        return []  # one measurement each says where they are, and not when they came there
    ranked = sorted(curves, key=lambda name: -fmean(_best(curve) for curve in curves[name]))
    found = []
    for name, other in pairwise(ranked):
        at = min(_best(curve) for curve in curves[other]) if level is None else level
        if (made := factor(name, curves[name], other, curves[other], at)) is not None:
            found.append(made)
    return found


def _best(curve: Curve) -> float:
    return max(accuracy for _, accuracy in curve)


def efficiency_figure(panels: Mapping[str, Mapping[str, Sequence[Curve]]], chance: Mapping[str, float] | None = None) -> Figure:
    """Accuracy over images processed, on a logarithmic axis: a line for the mean over seeds, a band from least to most.

    Args:
        panels: title -> recipe -> its curves, one a seed, measured after the same numbers of images.
        chance: title -> accuracy of guessing, drawn as a dotted line.
    """
    figure = Figure(figsize=(5.4 * len(panels), 3.6), layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name, seeds in curves.items():
            images = [place for place, _ in min(seeds, key=len)]
            values = [[100 * curve[number][1] for curve in seeds] for number in range(len(images))]
            (line,) = axes.plot(images, [fmean(own) for own in values], label=name, marker="o", markersize=3, linewidth=1.6)
            axes.fill_between(images, list(map(min, values)), list(map(max, values)), color=line.get_color(), alpha=0.15)
        if chance and title in chance:
            axes.axhline(100 * chance[title], color=_GREY, linestyle=":", label="chance")
        axes.set(title=title, xlabel="images processed", ylabel="%", xscale="log")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.25)
        axes.legend(fontsize=8, frameon=False)
    return figure
