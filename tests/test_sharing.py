"""A share of the tests: all parts together are all tests, each once, and a test's part depends on its name alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from sharing import part_of, pytest_collection_modifyitems

NAMES = [f"tests/folder/test_file.py::test_{number}" for number in range(400)]


def chosen(share: str | None) -> list[str]:
    dropped: list[Any] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    items: Any = [SimpleNamespace(nodeid=name) for name in NAMES]
    pytest_collection_modifyitems(SimpleNamespace(getoption=lambda name: share, hook=hook), items)  # type: ignore[arg-type]
    assert len(items) + len(dropped) == len(NAMES)
    return [item.nodeid for item in items]


def test_parts_are_disjoint_and_complete() -> None:
    parts = [chosen(f"{part}/4") for part in range(4)]
    assert sorted(name for part in parts for name in part) == sorted(NAMES) and all(70 < len(part) < 130 for part in parts)


def test_days_go_round() -> None:
    assert chosen("20784/4") == chosen("0/4") != chosen("1/4")


def test_without_the_option_all_run() -> None:
    assert chosen(None) == NAMES


def test_a_name_has_one_part_on_every_machine() -> None:
    assert part_of("tests/data/test_shards.py::test_coverage[25]", 20) == 2


@pytest.mark.parametrize("share", ["3", "a/4", "1/0", "-1/4"])
def test_what_is_no_share(share: str) -> None:
    with pytest.raises(pytest.UsageError, match="must be K/N, such as 0/14"):
        chosen(share)
