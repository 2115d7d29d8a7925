"""A source whose images of rare tags are shown more often (Mahajan et al. 2018, section 2.2)."""

from __future__ import annotations

from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.data.order import Order
from lightning_clip.data.sources.base import pair_sources, readable_captions
from lightning_clip.data.sources.wrapped import WrappedSource
from lightning_clip.data.weighted_order import Weighted
from lightning_clip.data.words import common_entries, read_synonyms, tags_in

__all__ = ["Resampled"]


@pair_sources.register("resampled")
class Resampled(WrappedSource):
    """Pairs of another source; an image stands in an epoch in proportion to the largest f_h^-power of its tags h.

    f_h is how many images have tag h; power 0.5 is the inverse square root of the paper, 0 leaves images as they are. An epoch
    is as long as without. Images without tags weigh as much as the most frequent tag's: the run counts them as bad samples.

    Args:
        source: what any source may be: a name, a path, a mapping or a `PairSource`; no stream.
        power: at least 0.
        separator: between several tags in one caption.
        synonyms: as objective "hashtags" has them.

    Raises:
        InputError: a stream, no tags at all, or a setting out of range.

    Examples:
        >>> scenes = {"name": "synthetic", "size": 30}
        >>> len(Resampled(scenes, separator=" ").order(seed=0))
        30
    """

    def __init__(
        self, source: Any, power: float = 0.5, *, separator: str = ",", synonyms: str | dict[str, str] | None = None
    ) -> None:
        in_range("resampled: power", power, 0)
        super().__init__(pair_sources.build(source))
        if not self.source.random_access:
            raise InputError("resampled cannot hold a stream, which has no samples by number: put it into shards on a disk")
        self.power, self.separator, self.synonyms = power, separator, read_synonyms(synonyms, separator)

    def order(self, seed: int) -> Order:
        tags = [tags_in(readable_captions(self.source, index), self.separator, self.synonyms) for index in range(len(self))]
        counts, _ = common_entries(tags, len(self) * 1000)
        if not counts:
            raise InputError(f"resampled: none of the {len(self)} samples has a tag: name the column that holds them")
        most = max(counts.values())
        weights = np.array([max([(most / counts[tag]) ** self.power for tag in own], default=1.0) for own in tags])
        return Weighted(weights, seed)
