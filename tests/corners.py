"""Corners of a matrix of tests: every run checks some of them, `-m slow` the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["corners"]


def corners(values: Sequence[Any], *quick: Any) -> list[Any]:
    """The values of `pytest.mark.parametrize`, of which all but some are marked `slow`.

    Args:
        values: one for each test; a tuple is one value for each name.
        quick: those that every run takes.
    """
    for value in quick:
        assert value in values, f"{value!r} is not among {values}"
    return [_param(value, () if value in quick else (pytest.mark.slow,)) for value in values]


def _param(value: Any, marks: tuple[Any, ...]) -> Any:
    return pytest.param(*value, marks=marks) if isinstance(value, tuple) else pytest.param(value, marks=marks)
