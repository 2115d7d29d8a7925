"""Effective robustness: accuracy under shift beyond that of standard models with the same accuracy on the set."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Sequence
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_clip.core.errors import InputError, existing_path, nearest

__all__ = ["STANDARD_MODELS", "Line", "fit_line", "logit", "read_reference"]

# Models trained on ImageNet alone, as timm publishes them.
STANDARD_MODELS = Path(str(files("lightning_clip.evaluation") / "standard_models.csv"))
_EDGE = 1e-4  # accuracies of 0 and 1 have no logit


def logit(share: float) -> float:
    """log(p / (1 - p)), p kept within 1e-4 of 0 and 1.

    Args:
        share: p in [0, 1].

    Examples:
        >>> logit(0.5), round(logit(0.75), 3)
        (0.0, 1.099)
    """
    inside = min(1 - _EDGE, max(_EDGE, share))
    return math.log(inside / (1 - inside))


class Line(NamedTuple):
    """logit(shifted accuracy) = slope logit(accuracy) + intercept."""

    slope: float
    intercept: float

    def expected(self, accuracy: float) -> float:
        """The accuracy under shift that a standard model of this accuracy has, in (0, 1).

        Args:
            accuracy: on the set itself, in [0, 1].
        """
        return 1 / (1 + math.exp(-(self.slope * logit(accuracy) + self.intercept)))

    def effective(self, accuracy: float, shifted: float) -> float:
        """Effective robustness: the accuracy under shift beyond the expected one (Taori et al. 2020, section 3).

        Args:
            accuracy: on the set itself, in [0, 1].
            shifted: under shift, in [0, 1].
        """
        return shifted - self.expected(accuracy)


def fit_line(points: Sequence[tuple[float, float]]) -> Line:
    """Least squares on logits, as Taori et al. (2020) and Radford et al. (2021, figure 13) fit standard models.

    Args:
        points: (accuracy, accuracy under shift) of at least two models.

    Raises:
        InputError: fewer than two points, or all of the same accuracy.

    Examples:
        >>> line = fit_line([(0.2, 0.2), (0.5, 0.5), (0.9, 0.9)])
        >>> round(line.effective(0.6, 0.7), 3)
        0.1
    """
    x, y = (np.array([logit(point[axis]) for point in points]) for axis in (0, 1))
    if len(points) < 2 or float(np.ptp(x)) < 1e-9:
        raise InputError(f"a reference line needs two models of different accuracy, and got {len(points)} of {sorted(set(x))}")
    slope, intercept = np.polyfit(x, y, 1)
    return Line(float(slope), float(intercept))


def read_reference(
    path: str, names: Sequence[str], everything: Collection[str] | None = None
) -> dict[str, list[tuple[float, float]]]:
    """Accuracies of standard models, for each shifted set.

    Args:
        path: csv with a row a model, a column `<shift>/reference` with its accuracy on the set itself over the classes of that
            shift, and one for each shift; shares in [0, 1]. Rows where a cell is empty are skipped for that shift.
        names: of the shifted sets.
        everything: those that have all classes of the set, for which a column `reference` serves as well; None for all names.

    Raises:
        InputError: a missing file or column, or a cell that is no share.
    """
    with existing_path(path, "reference accuracies").open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    columns = list(rows[0]) if rows else []
    clean = {name: f"{name}/reference" for name in names}
    for name in names if everything is None else everything:
        if clean[name] not in columns:
            clean[name] = "reference"
    _check_columns(path, columns, (*clean.values(), *names))
    return {
        name: [
            (_share(path, row[own]), _share(path, row[name]))
            for row in rows
            if (row[own] or "").strip() and (row[name] or "").strip()
        ]
        for name, own in clean.items()
    }


def _check_columns(path: str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    for name in wanted:
        if name not in columns:
            known = nearest(name, columns) if columns else "the table is empty"
            what = " (accuracies on the set itself over the classes of the shift)" if name.endswith("/reference") else ""
            raise InputError(f"reference accuracies {path!r} have no column {name!r}{what}: {known}")


def _share(path: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InputError(f"reference accuracies {path!r}: {cell!r} is no share in [0, 1]; 76.2 % is 0.762")
    return value
