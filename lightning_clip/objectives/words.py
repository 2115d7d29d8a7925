"""A bag of words: the words of the caption predicted from the image (Joulin et al. 2016; SuperClass, Huang et al. 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.words import words_in
from lightning_clip.objectives.bag import BagObjective
from lightning_clip.objectives.base import objectives

__all__ = ["Words"]


@objectives.register("words")
class Words(BagObjective):
    """The words of the caption that is shown, each once, from the image alone.

    With weights w_k, here log(N / (1 + n_k)) for n_k of N captions that hold word k, the loss of an image is
    -sum_k w_k / (sum_j w_j) log p_k over the words k of its caption. Alone it needs no text tower, and evaluation scores a
    class by its words; beside pairs it is SuperCLIP (Zhao et al. 2025), and exports omit its layer.

    Args:
        size: the most words of a vocabulary that is taken from the data, the most frequent ones.
        vocabulary: word -> its weight, or a list of words; None takes it from the training captions.
        prediction: "softmax" or "binary".
        idf: weigh words by their inverse frequency; False weighs all alike.
        unit: "words", or "tokens" of the model's tokenizer.
        all_captions: the words of all captions of an image, each once, not only of the one that is shown.

    Raises:
        InputError: as `BagObjective`, or another unit.

    Examples:
        >>> objective = Words(vocabulary={"a": 0.1, "dog": 2.0})
        >>> objective.reads(), objective.predicts()
        (('image',), ('text',))
    """

    part, kind = "words", "words"

    def __init__(
        self,
        size: int = 10_000,
        vocabulary: dict[str, float] | list[str] | None = None,
        prediction: str = "softmax",
        *,
        idf: bool = True,
        unit: str = "words",
        all_captions: bool = False,
    ) -> None:
        super().__init__(size, vocabulary, prediction)
        if unit not in ("words", "tokens"):
            raise InputError(f"objective 'words': unit {unit!r} must be words or tokens")
        self.idf, self.unit, self.all_captions = idf, unit, all_captions
        self._tokenizer: Tokenizer | None = None

    def prepare(self, data: Any | None, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        super().prepare(data, tokenizer)

    def entries(self, batch: PairBatch) -> Sequence[Sequence[str]]:
        if self.all_captions:
            return [[entry for text in own for entry in self.entries_of_text(text)] for own in batch.captions]
        return [self.entries_of_text(text) for text in batch.texts or [own[0] for own in batch.captions]]

    def entries_of_text(self, text: str) -> Sequence[str]:
        if self.unit == "words":
            return words_in(text)
        assert self._tokenizer is not None  # texts are predicted
        return [str(token) for token in self._tokenizer.encode([text])[0]]

    def weights(self, known: Sequence[str]) -> list[float]:
        assert self.vocabulary is not None
        return [self.vocabulary[entry] if self.idf else 1.0 for entry in known]
