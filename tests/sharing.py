"""A share of the tests, the same on every machine: `--share K/N` runs those whose name falls into the K-th of N parts."""

from __future__ import annotations

from zlib import crc32

import pytest

__all__ = ["part_of"]


def part_of(name: str, parts: int) -> int:
    """The part from 0 to `parts` - 1 that a test belongs to, by nothing but its name."""
    return crc32(name.encode()) % parts


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", metavar="K/N", help="run the K-th of N parts of the tests that are chosen, counted from 0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    share = config.getoption("--share")
    if not share:
        return
    part, _, parts = share.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(parts)):
        raise pytest.UsageError(f"--share {share!r} must be K/N, such as 0/14")
    chosen = int(part) % int(parts)
    config.hook.pytest_deselected(items=[item for item in items if part_of(item.nodeid, int(parts)) != chosen])
    items[:] = [item for item in items if part_of(item.nodeid, int(parts)) == chosen]
