"""Scores of images against classes or captions by a model's own scorer, extracted and kept as features are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lightning_clip.evaluation.interface import EvaluatedModel

__all__ = ["Scores", "ScoringModel"]


@dataclass(frozen=True)
class Scores:
    """Scores of a split, in the order of the source.

    Attributes:
        values: float32 (N, C), scaled as for a softmax over classes; -inf for a class that is never chosen.
        label: int64 (N,), or int64 (N, C) of 0 and 1 where an image has several classes.
        index: int64 (N,), place in the source, rising.
        keys: names of the images.
        by_similarity: whether they are similarities to prompts.
    """

    values: Tensor
    label: Tensor
    index: Tensor
    keys: list[str]
    by_similarity: bool


class ScoringModel(EvaluatedModel):
    """A model that gives scores (B, C) in the place of image features, so that whatever extracts these extracts scores.

    Args:
        model: whose scorer it is.
        score: images uint8 (B, 3, S, S) -> (B, C).
    """

    reads_texts = False

    def __init__(self, model: EvaluatedModel, score: Callable[[Tensor], Tensor]) -> None:
        super().__init__(model.name, model.image_size)
        self.model, self.score = model, score

    @property
    def scale(self) -> float:
        """1: scores are scaled."""
        return 1.0

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.model.device

    def transform(self) -> nn.Module:
        """The model's."""
        return self.model.transform()

    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (B, C), and nothing before them (B, 0).

        Args:
            image: uint8 (B, 3, S, S).
        """
        scores = self.score(image).float()  # (B, 3, S, S) -> (B, C)
        return scores, scores.new_zeros(len(scores), 0)

    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Nothing (B, 0): texts are in the scorer.

        Args:
            texts: B strings.
            batch_size: without effect.
        """
        return torch.zeros(len(texts), 0)
