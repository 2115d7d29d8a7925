"""Several sources as one, by weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.mixing_order import Mixture, Phase, epoch_length
from lightning_clip.data.order import Order, Windowed
from lightning_clip.data.sources.base import PairSource, pair_sources

__all__ = ["MixedSource"]


@pair_sources.register("mix")
class MixedSource(PairSource):
    """Pairs of several sources.

    Without weights an epoch holds each pair once. With weights, each stretch of an epoch holds them in that proportion: until
    the scarcest source is used up (the rest of the others waits for another epoch, which draws again), or with `upsample` until
    every pair was seen, small sources being repeated. With a curriculum the weights change at given steps; an epoch then is as
    long as all sources together.

    Args:
        sources: what any source may be: names, paths, mappings or `PairSource` objects.
        weights: one per source, at least 0; only their ratio counts.
        upsample: repeats small sources instead of leaving out pairs of large ones.
        curriculum: mappings {"step": ..., "weights": [...]} by rising step, the first from step 0; instead of `weights`.

    Raises:
        InputError: no source, weights or steps that do not fit.

    Examples:
        >>> scenes = {"name": "synthetic", "size": 30}
        >>> mixed = MixedSource([scenes, {**scenes, "size": 10}], weights=[1, 1])
        >>> len(mixed), len(mixed.order(seed=0))
        (40, 20)
    """

    def __init__(
        self,
        sources: Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        upsample: bool = False,
        curriculum: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not 1 <= len(sources) <= 256:
            raise InputError(f"mix has {len(sources)} sources: give 1 to 256")
        if weights is not None and curriculum is not None:
            raise InputError("mix has weights and a curriculum: give one of both")
        self.weights, self.upsample = None if weights is None else _weights(weights, len(sources)), upsample
        self.phases = _phases(curriculum, len(sources)) if curriculum is not None else None
        self.sources = [pair_sources.build(source) for source in sources]
        for source in self.sources:
            if not source.random_access:
                raise InputError("mix cannot hold a stream, which has no samples by number: put it into shards on a disk")
        self._starts = np.concatenate([[0], np.cumsum([len(source) for source in self.sources])])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> Pair:
        source, place = self._place(index)
        return source[place]

    def captions(self, index: int) -> tuple[str, ...]:
        source, place = self._place(index)
        return source.captions(place)

    def label(self, index: int) -> int | None:
        source, place = self._place(index)
        return source.label(place)

    def order(self, seed: int) -> Order:
        orders = [source.order(seed + number) for number, source in enumerate(self.sources)]
        lengths = [len(source) for source in self.sources]
        if self.phases is not None:
            return Mixture(orders, self.phases, len(self), seed)
        if self.weights is None and not any(isinstance(order, Mixture | Windowed) for order in orders):
            return super().order(seed)
        weights = self.weights or tuple(map(float, lengths))
        return Mixture(orders, [Phase(0, weights)], epoch_length(lengths, weights, self.upsample), seed)

    def first_of_parts(self) -> list[int]:
        found = enumerate(source.first_of_parts() for source in self.sources)
        return [int(self._starts[number]) + place for number, places in found for place in places]

    def lost(self) -> Counter[str]:
        return sum((Counter(source.lost()) for source in self.sources), Counter[str]())

    def fetch(self, shards: list[int]) -> None:
        for number, source in enumerate(self.sources):
            own = [shard // len(self.sources) for shard in shards if shard % len(self.sources) == number]
            if own:
                source.fetch(own)

    def _place(self, index: int) -> tuple[PairSource, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.sources[number], index - int(self._starts[number])


def _weights(weights: Sequence[float], count: int) -> tuple[float, ...]:
    if len(weights) != count or min(weights) < 0 or sum(weights) <= 0:
        raise InputError(f"mix has weights {list(weights)} for {count} sources: give one per source, at least 0, not all 0")
    return tuple(map(float, weights))


def _phases(curriculum: Sequence[Mapping[str, Any]], count: int) -> list[Phase]:
    phases = []
    for entry in curriculum:
        if set(entry) != {"step", "weights"}:
            raise InputError(f"curriculum has {dict(entry)}: each entry needs 'step' and 'weights'")
        phases.append(Phase(int(entry["step"]), _weights(entry["weights"], count)))
    steps = [phase.step for phase in phases]
    if not steps or steps[0] != 0 or steps != sorted(set(steps)):
        raise InputError(f"curriculum has steps {steps}: they must rise, the first being 0")
    return phases
