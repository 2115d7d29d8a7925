"""In the loader's worker: a `Visit` arrives, transformed pixels and a chosen caption leave, a `PairBatch` in the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_clip.data.captions import ChooseCaption
from lightning_clip.data.decoding import decode
from lightning_clip.data.sampler import Visit, visit_seed
from lightning_clip.data.sources import PairSource
from lightning_clip.data.teachers import StoredTeacher, stacked, teachers_of
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.types import Pair, PairBatch, Skipped

__all__ = ["PairCollator", "PreparedPair", "PreparedPairs", "look_up"]


class PreparedPair(NamedTuple):
    """A pair ready to be collated."""

    image: Tensor
    caption: str
    pair: Pair
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it
    teachers: list[StoredTeacher] | None = None


class PreparedPairs(Dataset["PreparedPair | Skipped"]):
    """Reads, decodes and transforms the samples of a source; what cannot be used comes back as `Skipped`.

    Crops and captions are drawn from (seed, epoch, index), never from a worker's own state: they do not depend on how
    many workers there are.

    Args:
        source: where the pairs are.
        transform: uint8 (3, H, W) -> uint8 (3, S, S).
        choose_caption: pair and random generator -> one text.
        seed: of crops and captions.
    """

    def __init__(self, source: PairSource, transform: nn.Module, choose_caption: ChooseCaption, seed: int) -> None:
        self.source, self.transform, self.choose_caption, self.seed = source, transform, choose_caption, seed

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, visit: Visit) -> PreparedPair | Skipped:
        with torch.random.fork_rng(devices=[]):
            return self._prepared(visit)

    def __getitems__(self, visits: Sequence[Visit]) -> list[PreparedPair | Skipped]:
        """A batch: the generator is put aside once, which takes longer than a small picture."""
        with torch.random.fork_rng(devices=[]):
            return [self._prepared(visit) for visit in visits]

    def _prepared(self, visit: Visit) -> PreparedPair | Skipped:
        seed = visit_seed(self.seed, visit.epoch, visit.index)
        try:
            pair = look_up(self.source, visit)
            image = decode(pair.image, getattr(self.transform, "at_least", None))
            caption = self.choose_caption(pair, random.Random(seed))
            teachers = teachers_of(pair, caption)
        except (OSError, ValueError, IndexError, KeyError) as error:
            # A sample's own fault. IndexError: an empty list of captions has nothing to choose from.
            reason = "no caption" if isinstance(error, IndexError) else str(error).strip("'")
            return Skipped(key=f"sample {visit.index}", reason=reason or type(error).__name__)
        torch.default_generator.manual_seed(seed)
        image = self.transform(image)
        # The batch needs names and texts, not the encoded bytes again.
        return PreparedPair(image, caption, Pair(b"", pair.captions, pair.key, pair.label), visit.index, teachers)


def look_up(source: PairSource, visit: Visit) -> Pair:
    """The pair of a visit; anything with items is a source."""
    return source.visited(visit.epoch, visit.index) if isinstance(source, PairSource) else source[visit.index]


class PairCollator:
    """Stacks images and tokenizes the chosen captions of a batch in one call."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def __call__(self, samples: Sequence[PreparedPair | Skipped]) -> PairBatch:
        good = [sample for sample in samples if isinstance(sample, PreparedPair)]
        tokens, mask = self.tokenizer([sample.caption for sample in good])
        labels = [-1 if sample.pair.label is None else sample.pair.label for sample in good]
        return PairBatch(
            image=torch.stack([sample.image for sample in good]) if good else torch.empty(0, 3, 1, 1, dtype=torch.uint8),
            tokens=tokens,
            mask=mask,
            label=torch.tensor(labels, dtype=torch.long),
            index=torch.tensor([sample.index for sample in good], dtype=torch.long),
            captions=[sample.pair.captions for sample in good],
            keys=[sample.pair.key for sample in good],
            skipped=[sample for sample in samples if isinstance(sample, Skipped)],
            lengths=mask.sum(dim=1).tolist(),
            texts=[sample.caption for sample in good],
            teachers=stacked([sample.teachers for sample in good]),
        )
