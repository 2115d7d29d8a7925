"""Samples and batches in the loader's worker: from a `Visit` to pixels, caption and columns, and to a `PairBatch`."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.core.patches import stack_images
from lightning_clip.core.types import KeptFeatures, Pair, PairBatch, Skipped
from lightning_clip.data.boxed_images import transform_with_boxes
from lightning_clip.data.boxes import BOXES
from lightning_clip.data.captions import ChooseCaption
from lightning_clip.data.columns import Collate, collate_column, is_view, no_column, view_names
from lightning_clip.data.decoding import decode
from lightning_clip.data.encoded import EncodedCrop, encoded_images
from lightning_clip.data.feature_store import FeatureStore, digest_of
from lightning_clip.data.sampler import NOTHING, Visit, visit_seed
from lightning_clip.data.sources import PairSource
from lightning_clip.data.teachers import StoredTeacher, stacked, teachers_of
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import decode_for, reading_of

__all__ = ["PairCollator", "PreparedPair", "PreparedPairs", "look_up"]

_NO_SAMPLE = Skipped(key="", reason="")
_FILLING = 2  # samples in the place of a batch of which none can be used: batch statistics of one are none
_LOOKED_AT = 1000  # samples among which they must be


class PreparedPair(NamedTuple):
    """A pair ready to be collated.

    Attributes:
        image: pixels uint8 (3, S, S), or the feature (W,) that was kept of them; None where no tower reads images.
        caption: the text that is shown; empty where no tower reads texts.
        pair: names and texts, without the image's bytes.
        index: the sample's place in its source.
        digest: of the image, where features are kept.
        teachers: features that were stored beside the pair.
        columns: raw values of the further columns that are read, and the image's further views.
    """

    image: Tensor | None
    caption: str
    pair: Pair
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks of it
    digest: bytes | None = None
    teachers: list[StoredTeacher] | None = None
    columns: Mapping[str, Any] = {}


class PreparedPairs(Dataset["PreparedPair | Skipped"]):
    """Reads, decodes and transforms the samples of a source; what cannot be used comes back as `Skipped`.

    Crops and captions are drawn from (seed, epoch, index), never from a worker's own state: they do not depend on how
    many workers there are.

    Args:
        source: where the pairs are.
        transform: uint8 (3, H, W) -> uint8 (3, S, S), or a tuple of several such views: the first is the image, the next
            are the columns "view2", "view3", ...
        choose_caption: pair and random generator -> one text.
        seed: of crops and captions.
        features: of a frozen image tower; images whose features it holds are not decoded.
        columns: names of what is read; without "image" no image is decoded, without "text" no caption is chosen.
        fills: a batch of which nothing can be used gets the next usable samples instead, as training needs some.

    Attributes:
        divided: what is asked for at once is a part of a batch, and whoever joins the parts fills it.
    """

    divided = False

    def __init__(
        self,
        source: PairSource,
        transform: nn.Module,
        choose_caption: ChooseCaption,
        seed: int,
        features: FeatureStore | None = None,
        columns: Collection[str] = ("image", "text"),
        fills: bool = False,
    ) -> None:
        self.fills = fills and source.random_access
        self.source, self.transform, self.choose_caption, self.seed = source, transform, choose_caption, seed
        self.columns = tuple(columns)
        self._further = [name for name in self.columns if name not in ("image", "text")]
        self._image, self._text = "image" in self.columns, "text" in self.columns
        views = any(is_view(name) for name in self._further)
        self._boxed = self._image and BOXES in self._further
        self.features = None if views or self._boxed or not self._image else features  # views are drawn from pixels
        self._epoch = -1

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, visit: Visit) -> PreparedPair | Skipped:
        with torch.random.fork_rng(devices=[]):
            return self._prepared(visit)

    def __getitems__(self, visits: Sequence[Visit]) -> list[PreparedPair | Skipped]:
        """A batch: the generator is put aside once, which takes longer than a small image."""
        with torch.random.fork_rng(devices=[]):
            if self.features is not None:
                samples = self._with_features(visits, self.features)
            else:
                samples = [self._prepared(visit) for visit in visits]
            if self.fills and not self.divided and all(isinstance(sample, Skipped) for sample in samples):
                samples += islice(self._following(visits[-1]), min(_FILLING, len(visits)))
            return samples

    def following(self, visits: Sequence[Visit]) -> list[PreparedPair]:
        """Samples in the place of a batch of which none can be used: the next usable ones.

        Args:
            visits: those of the batch.
        """
        with torch.random.fork_rng(devices=[]):
            return list(islice(self._following(visits[-1]), min(_FILLING, len(visits))))

    def _following(self, last: Visit) -> Iterator[PreparedPair]:
        """Usable samples after a visit, in the order of the source."""
        for step in range(1, min(len(self.source), _LOOKED_AT)):
            sample = self._prepared(Visit(last.epoch, (last.index + step) % len(self.source)))
            if isinstance(sample, PreparedPair):
                yield sample

    def _with_features(self, visits: Sequence[Visit], features: FeatureStore) -> list[PreparedPair | Skipped]:
        """A batch without pixels if all of its features are there, else one with all pixels: the two are not mixed."""
        features.refresh(patient=visits[0].epoch == self._epoch)
        self._epoch = visits[0].epoch
        samples = [self._prepared(visit, features) for visit in visits]
        kept = [isinstance(sample, PreparedPair) and sample.image is not None and sample.image.ndim == 1 for sample in samples]
        if any(isinstance(sample, PreparedPair) and not row for sample, row in zip(samples, kept, strict=True)):
            samples = [
                self._prepared(visit) if row else sample for visit, sample, row in zip(visits, samples, kept, strict=True)
            ]
        return samples

    def _prepared(self, visit: Visit, features: FeatureStore | None = None) -> PreparedPair | Skipped:
        if visit == NOTHING:
            return _NO_SAMPLE
        seed = visit_seed(self.seed, visit.epoch, visit.index)
        try:
            pair = look_up(self.source, visit)
            torch.default_generator.manual_seed(seed)  # a transform may draw before it decodes
            image, digest = self._pixels_or_feature(pair, features) if self._image else (None, None)
            caption = self.choose_caption(pair, random.Random(seed)) if self._text else ""
            teachers = teachers_of(pair, caption) if self._text else None
            columns = {name: value for name in self._further if (value := pair.columns.get(name)) is not None}
        except (OSError, ValueError, IndexError, KeyError) as error:
            # A sample's own fault. IndexError: an empty list of captions has nothing to choose from.
            return _skipped(visit, "no caption" if isinstance(error, IndexError) else reason_of(error))
        if image is not None and not (isinstance(image, Tensor) and image.ndim == 1):
            if self._boxed and BOXES in columns:
                image, columns[BOXES] = transform_with_boxes(self.transform, image, columns[BOXES])
            else:
                image = self.transform(image)
            if isinstance(image, tuple | list):
                columns |= dict(zip(view_names(len(image) - 1), image[1:], strict=True))
                image = image[0]
        for name in self._further:
            if name not in columns:
                return _skipped(visit, no_column(name))
        # The batch needs names and texts, not the encoded bytes again.
        known = Pair(b"", pair.captions, pair.key, pair.label)
        return PreparedPair(image, caption, known, visit.index, digest, teachers, columns)

    def _pixels_or_feature(self, pair: Pair, features: FeatureStore | None) -> tuple[Any, bytes | None]:
        """What the transform takes, such as pixels (3, H, W), or the kept feature (W,); the digest where features are kept."""
        if pair.image is None:
            raise ValueError(no_column("image"))
        digest = None if self.features is None else digest_of(pair.image)
        feature = None if features is None or digest is None else features.find([digest])[0]
        if feature is not None:
            return feature, digest
        if self._boxed:  # whole: boxes are measured on it
            return decode(pair.image, reading_of(self.transform)), digest
        return decode_for(pair.image, self.transform), digest


def _skipped(visit: Visit, reason: str) -> Skipped:
    return Skipped(key=f"sample {visit.index}", reason=reason)


def look_up(source: PairSource, visit: Visit) -> Pair:
    """The pair of a visit; anything with items is a source."""
    return source.visited(visit.epoch, visit.index) if isinstance(source, PairSource) else source[visit.index]


class PairCollator:
    """Stacks images, tokenizes the chosen captions of a batch in one call, and collates its further columns.

    Args:
        tokenizer: of the captions; may be None where no tower reads them.
        collators: further column -> function of B raw values that gives a tensor (B, ...), or tuples and mappings of such;
            None stacks them. Static methods and functions of modules travel to workers, whatever starts these.
        image: False where no tower reads images; the batch then has none.
        text: False where no tower reads captions; the batch then has no tokens.

    Raises:
        InputError: captions without a tokenizer; in a batch, values of a column that cannot be collated, or a result of
            another first dimension.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        collators: Mapping[str, Collate | None] | None = None,
        image: bool = True,
        text: bool = True,
    ) -> None:
        if text and tokenizer is None:
            raise InputError("captions are read but there is no tokenizer: give one, or text=False")
        self.tokenizer, self.collators, self.image, self.text = tokenizer, dict(collators or {}), image, text

    def __call__(self, samples: Sequence[PreparedPair | Skipped]) -> PairBatch:
        good = [sample for sample in samples if isinstance(sample, PreparedPair)]
        tokens, mask, lengths, texts = self._tokens(good)
        return PairBatch(
            image=_images(good) if self.image else None,
            tokens=tokens,
            mask=mask,
            label=_labels(good),
            index=torch.tensor([sample.index for sample in good], dtype=torch.long),
            captions=[sample.pair.captions for sample in good],
            keys=[sample.pair.key for sample in good],
            skipped=[sample for sample in samples if isinstance(sample, Skipped) and sample is not _NO_SAMPLE],
            lengths=lengths,
            texts=texts,
            teachers=stacked([sample.teachers for sample in good]),
            digests=[sample.digest or b"" for sample in good] if good and good[0].digest else None,
            columns=self._columns(good),
        )

    def _tokens(self, good: Sequence[PreparedPair]) -> tuple[Tensor | None, Tensor | None, list[int] | None, list[str] | None]:
        """Token ids and mask (B, L), the captions' lengths and texts; None where no tower reads them."""
        if not self.text or self.tokenizer is None:
            return None, None, None, None
        texts = [sample.caption for sample in good]
        tokens, mask = self.tokenizer(texts)
        return tokens, mask, mask.sum(dim=1).tolist(), texts

    def _columns(self, good: Sequence[PreparedPair]) -> dict[str, Any]:
        """Each further column's values put together; nothing for a batch of which no sample is left."""
        names = {name: None for sample in good for name in sample.columns}
        return {name: collate_column(name, self.collators.get(name), [row.columns[name] for row in good]) for name in names}


def _labels(good: Sequence[PreparedPair]) -> Tensor:
    """Classes int64 (B,), -1 where there is none."""
    return torch.tensor([-1 if row.pair.label is None else row.pair.label for row in good], dtype=torch.long)


def _images(good: Sequence[PreparedPair]) -> Any:
    """Pixels uint8 (B, 3, S, S), packed patches, the features (B, W) that were kept of them, or `EncodedImages`."""
    images = [sample.image for sample in good if sample.image is not None]
    if not images:
        return torch.empty(0, 3, 1, 1, dtype=torch.uint8)
    if any(isinstance(image, EncodedCrop) for image in images):
        return encoded_images(images)
    if images[0].ndim == 2:
        return stack_images(images)  # patches of pictures of any shape: -> (B, 1, 1, L, P + 5)
    stacked = default_collate(images)  # B x (3, S, S) -> (B, 3, S, S), or B x (W,) -> (B, W); in a worker into shared memory
    return KeptFeatures(stacked) if images[0].ndim == 1 else stacked
