"""Runs that are killed at random moments, once or twice, end as those that never were: the same losses, the same weights."""

from __future__ import annotations

import pytest
from kills.points import SETTINGS, Point, Survivors, points


@pytest.fixture(scope="module")
def survivors(tmp_path_factory: pytest.TempPathFactory) -> Survivors:
    return Survivors(tmp_path_factory.mktemp("kills"))


@pytest.mark.slow
@pytest.mark.parametrize("point", points(100), ids=lambda point: f"{point.number} {point.setting}")
def test_ends_as_if_nothing_had_happened(point: Point, survivors: Survivors) -> None:
    assert survivors.difference(point) is None


@pytest.mark.slow
def test_a_run_that_ends_otherwise_is_noticed(survivors: Survivors) -> None:
    """The comparison itself: against the run of another setting."""
    survivors._whole["micro-batches"] = survivors.whole("plain")
    try:
        difference = survivors.difference(Point(1000, "micro-batches", (0.5,)))
    finally:
        del survivors._whole["micro-batches"]
    assert difference is not None and difference.startswith("rank 0, batch 1: ")


def test_every_setting_has_its_turn() -> None:
    drawn = points(100)
    assert {point.setting for point in drawn} == set(SETTINGS) and drawn == points(100) != points(100, seed=1)
    assert {len(point.moments) for point in drawn} == {1, 2}
