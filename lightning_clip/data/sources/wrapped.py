"""`WrappedSource`: another source's pairs in its order, for those that change one thing about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lightning_clip.core.types import Pair
from lightning_clip.data.order import Order
from lightning_clip.data.sources.base import PairSource

__all__ = ["WrappedSource"]


class WrappedSource(PairSource):
    """Answers everything as another source does.

    Args:
        source: the other one.
    """

    def __init__(self, source: PairSource) -> None:
        self.source = source
        self.class_names, self.layout = source.class_names, source.layout
        self.random_access = source.random_access

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Pair:
        return self.source[index]

    def visited(self, epoch: int, index: int) -> Pair:
        return self.source.visited(epoch, index)

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(index)

    def label(self, index: int) -> int | None:
        return self.source.label(index)

    def place(self, index: int) -> str:
        return self.source.place(index)

    def order(self, seed: int) -> Order:
        return self.source.order(seed)

    def lost(self) -> Mapping[str, int]:
        return self.source.lost()

    def first_of_parts(self) -> Sequence[int]:
        return self.source.first_of_parts()

    def fetch(self, shards: list[int]) -> None:
        self.source.fetch(shards)
