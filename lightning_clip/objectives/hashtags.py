"""Hashtags: the tags of an image predicted from it, 1/k for each of k (Mahajan et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lightning_clip.core.types import PairBatch
from lightning_clip.data.words import read_synonyms, tags_in
from lightning_clip.objectives.bag import BagObjective
from lightning_clip.objectives.base import objectives

__all__ = ["Hashtags"]


@objectives.register("hashtags")
class Hashtags(BagObjective):
    """All tags of an image, whichever caption is shown: -1/k sum over its k tags of log softmax(z).

    The captions of a sample are its tags. A sample without any is a bad sample, counted and limited by `max_bad_share`. The
    source "resampled" shows images of rare tags more often. Zero-shot, a class scores by the tags that its names hold.

    Args:
        size: the most tags of a vocabulary that is taken from the data, the most frequent ones.
        vocabulary: a list of tags; None takes it from the training data.
        prediction: "softmax" or "binary".
        separator: between several tags in one caption.
        synonyms: a file with one group of tags a line, the first of which stands for all, or a mapping tag -> its stand-in.

    Raises:
        InputError: as `BagObjective`, or a file of synonyms that is missing or has a tag in two groups.

    Examples:
        >>> Hashtags(synonyms={"puppy": "dog"}).entries_of_text("#puppy, beach")
        ['dog', 'beach']
    """

    part, kind = "hashtags", "tags"

    def __init__(
        self,
        size: int = 20_000,
        vocabulary: dict[str, float] | list[str] | None = None,
        prediction: str = "softmax",
        *,
        separator: str = ",",
        synonyms: str | dict[str, str] | None = None,
    ) -> None:
        super().__init__(size, vocabulary, prediction)
        self.separator, self.synonyms = separator, read_synonyms(synonyms, separator)

    def entries(self, batch: PairBatch) -> Sequence[Sequence[str]]:
        return [tags_in(captions, self.separator, self.synonyms) for captions in batch.captions]

    def entries_of_text(self, text: str) -> Sequence[str]:
        return tags_in([text], self.separator, self.synonyms)

    def documents(self, captions: Iterable[tuple[str, ...]]) -> Iterable[Sequence[str]]:
        """All captions of an image are one document."""
        return (tags_in(texts, self.separator, self.synonyms) for texts in captions)
