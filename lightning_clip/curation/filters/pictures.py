"""Filters by the picture's shape."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_clip.core.errors import InputError
from lightning_clip.curation.filters.base import Filter, Looked, pair_filters

__all__ = ["Aspect", "Size"]


@pair_filters.register("size")
class Size(Filter):
    """Images whose shorter side is within limits.

    Args:
        least: pixels, at least 1.
        most: pixels, not below `least`; None for any.
    """

    def __init__(self, least: int = 1, most: int | None = None) -> None:
        if least < 1 or (most is not None and most < least):
            raise InputError(f"filter size has least {least} and most {most}: it must be 1 <= least <= most")
        self.least, self.most = least, most
        self.reason = f"shorter side below {least} pixels" if most is None else f"shorter side not in {least}..{most} pixels"

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        return [self.least <= min(sample.size) <= (self.most or min(sample.size)) for sample in samples]


@pair_filters.register("aspect")
class Aspect(Filter):
    """Images whose longer side is at most `most` times the shorter one.

    Args:
        most: at least 1.
    """

    def __init__(self, most: float = 3.0) -> None:
        if most < 1:
            raise InputError(f"filter aspect has most {most}: it must be at least 1")
        self.most, self.reason = most, f"one side over {most:g} times the other"

    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        return [max(sample.size) <= self.most * min(sample.size) for sample in samples]
