"""`LazySource`: a source that is opened when it is first used and costs nothing until then."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from lightning_clip.core.types import Pair
from lightning_clip.data.order import Order
from lightning_clip.data.sources import PairSource

__all__ = ["LazySource"]


class LazySource(PairSource):
    """A training split beside a test split: most evaluations never use it, and its data need not be there.

    Args:
        open_source: opens the source; at the top of a module, or a partial, so that workers can be sent it.
    """

    def __init__(self, open_source: Callable[[], PairSource]) -> None:
        self.open_source = open_source

    @cached_property
    def _source(self) -> PairSource:
        return self.open_source()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Pair:
        return self._source[index]

    def captions(self, index: int) -> tuple[str, ...]:
        """Those of the opened source."""
        return self._source.captions(index)

    def visited(self, epoch: int, index: int) -> Pair:
        """That of the opened source."""
        return self._source.visited(epoch, index)

    def order(self, seed: int) -> Order:
        """That of the opened source."""
        return self._source.order(seed)

    def fetch(self, shards: list[int]) -> None:
        """Handed on to the opened source."""
        self._source.fetch(shards)
