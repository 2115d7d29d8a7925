"""In the loader's worker: a `Visit` arrives, transformed pixels and a chosen caption leave, a `PairBatch` in the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_clip.core.types import KeptFeatures, Pair, PairBatch, Skipped
from lightning_clip.data.captions import ChooseCaption
from lightning_clip.data.decoding import decode
from lightning_clip.data.feature_store import FeatureStore, digest_of
from lightning_clip.data.sampler import Visit, visit_seed
from lightning_clip.data.sources import PairSource
from lightning_clip.data.teachers import StoredTeacher, stacked, teachers_of
from lightning_clip.data.tokenizers import Tokenizer

__all__ = ["PairCollator", "PreparedPair", "PreparedPairs", "look_up"]


class PreparedPair(NamedTuple):
    """A pair ready to be collated; `image` holds pixels, or the feature (W,) that was kept of them."""

    image: Tensor
    caption: str
    pair: Pair
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it
    digest: bytes | None = None
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
        features: of a locked image tower; pictures whose features it holds are not decoded.
    """

    def __init__(
        self,
        source: PairSource,
        transform: nn.Module,
        choose_caption: ChooseCaption,
        seed: int,
        features: FeatureStore | None = None,
    ) -> None:
        self.source, self.transform, self.choose_caption, self.seed = source, transform, choose_caption, seed
        self.features = features
        self._epoch = -1

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, visit: Visit) -> PreparedPair | Skipped:
        with torch.random.fork_rng(devices=[]):
            return self._prepared(visit)

    def __getitems__(self, visits: Sequence[Visit]) -> list[PreparedPair | Skipped]:
        """A batch: the generator is put aside once, which takes longer than a small picture."""
        with torch.random.fork_rng(devices=[]):
            if self.features is not None:
                return self._with_features(visits, self.features)
            return [self._prepared(visit) for visit in visits]

    def _with_features(self, visits: Sequence[Visit], features: FeatureStore) -> list[PreparedPair | Skipped]:
        """A batch without pixels if all of its features are there, else one with all pixels: the two are not mixed."""
        features.refresh(patient=visits[0].epoch == self._epoch)
        self._epoch = visits[0].epoch
        samples = [self._prepared(visit, features) for visit in visits]
        if any(isinstance(sample, PreparedPair) and sample.image.ndim > 1 for sample in samples):
            kept = [isinstance(sample, PreparedPair) and sample.image.ndim == 1 for sample in samples]
            samples = [
                self._prepared(visit) if row else sample for visit, sample, row in zip(visits, samples, kept, strict=True)
            ]
        return samples

    def _prepared(self, visit: Visit, features: FeatureStore | None = None) -> PreparedPair | Skipped:
        seed = visit_seed(self.seed, visit.epoch, visit.index)
        try:
            pair = look_up(self.source, visit)
            digest = None if self.features is None else digest_of(pair.image)
            feature = None if features is None or digest is None else features.find([digest])[0]
            image = decode(pair.image, getattr(self.transform, "at_least", None)) if feature is None else feature
            caption = self.choose_caption(pair, random.Random(seed))
            teachers = teachers_of(pair, caption)
        except (OSError, ValueError, IndexError, KeyError) as error:
            # A sample's own fault. IndexError: an empty list of captions has nothing to choose from.
            reason = "no caption" if isinstance(error, IndexError) else str(error).strip("'")
            return Skipped(key=f"sample {visit.index}", reason=reason or type(error).__name__)
        if feature is None:
            torch.default_generator.manual_seed(seed)
            image = self.transform(image)
        # The batch needs names and texts, not the encoded bytes again.
        return PreparedPair(image, caption, Pair(b"", pair.captions, pair.key, pair.label), visit.index, digest, teachers)


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
            image=_together([sample.image for sample in good]),
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
            digests=[sample.digest or b"" for sample in good] if good and good[0].digest else None,
        )


def _together(images: Sequence[Tensor]) -> Tensor | KeptFeatures:
    """Pixels uint8 (B, 3, S, S), or the features (B, W) that were kept of them."""
    if not images:
        return torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    stacked = torch.stack(list(images))
    return KeptFeatures(stacked) if images[0].ndim == 1 else stacked
