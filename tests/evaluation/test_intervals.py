"""Intervals of a share against their closed forms, and how often they cover the truth."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from scipy.stats import beta, binom, norm

from lightning_clip.core.errors import InputError
from lightning_clip.evaluation import intervals
from lightning_clip.evaluation.intervals import clopper_pearson, wilson


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 400), st.floats(0, 1), st.sampled_from([0.5, 0.9, 0.95, 0.995]))
def test_equal_closed_forms(trials: int, share: float, confidence: float) -> None:
    """low = B(a/2; k, n - k + 1), high = B(1 - a/2; k + 1, n - k), and Wilson's (p + z^2 / 2n -+ ...) / (1 + z^2 / n)."""
    k, n, tail = round(share * trials), trials, (1 - confidence) / 2
    low = 0.0 if k == 0 else beta.ppf(tail, k, n - k + 1)
    high = 1.0 if k == n else beta.isf(tail, k + 1, n - k)
    assert clopper_pearson(k, n, confidence) == pytest.approx((low, high), abs=1e-12)
    z, p = norm.isf(tail), k / n
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    ends = [(p + z * z / (2 * n) + sign * reach) / (1 + z * z / n) for sign in (-1, 1)]
    assert wilson(k, n, confidence) == pytest.approx(ends, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 200), st.floats(0, 1))
def test_share_lies_inside_and_ends_mirror(trials: int, share: float) -> None:
    successes = round(share * trials)
    for ours in (clopper_pearson, wilson):
        low, high = ours(successes, trials)
        assert 0 <= low <= successes / trials <= high <= 1
        assert ours(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_closed_forms_at_the_ends() -> None:
    # No success in n: the upper end solves (1 - p)^n = a / 2; Wilson's is z^2 / (n + z^2).
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(20, 20) == pytest.approx((0.025 ** (1 / 20), 1))
    z = 1.959963984540054
    assert wilson(0, 20) == pytest.approx((0, z * z / (20 + z * z)))


@pytest.mark.parametrize("truth", [0.03, 0.3, 0.5, 0.9])
def test_clopper_pearson_covers_at_least_so_often(truth: float) -> None:
    covered = sum(binom.pmf(k, 30, truth) for k in range(31) if clopper_pearson(k, 30)[0] <= truth <= clopper_pearson(k, 30)[1])
    assert covered >= 0.95


@pytest.mark.parametrize("ours", [clopper_pearson, wilson])
def test_errors(ours: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for successes, trials in ((0, 0), (-1, 3), (4, 3)):
        with pytest.raises(InputError, match=f"{successes} of {trials} is no share"):
            ours(successes, trials)  # type: ignore[operator]
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(InputError, match=f"confidence {confidence} is outside"):
            ours(1, 3, confidence)  # type: ignore[operator]

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(intervals.importlib, "import_module", missing)
    with pytest.raises(InputError, match="needs scipy: pip install"):
        ours(1, 3)  # type: ignore[operator]
