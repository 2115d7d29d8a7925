"""Handwritten digits that scikit-learn ships: a small stand-in for MNIST which needs no download."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource
from lightning_clip.prompts.evaluation_sets import EvaluationSet, evaluation_sets
from lightning_clip.prompts.sets.names import class_names
from lightning_clip.prompts.sets.splits import drawn
from lightning_clip.prompts.sets.templates import SET_TEMPLATES
from lightning_clip.prompts.templates import resolve_templates

__all__ = ["Digits", "digits"]

_WHITE = 16  # the largest value of scikit-learn's pictures


class Digits(PairSource):
    """Some of scikit-learn's 1,797 digits of 8 x 8 pixels, white on black as MNIST's.

    Args:
        split: "train" or "test": half of each digit, the same on every machine.
    """

    def __init__(self, split: str = "test") -> None:
        try:
            from sklearn.datasets import load_digits  # here: an extra
        except ImportError as error:
            raise InputError("set 'digits' needs scikit-learn: pip install \"lightning-clip[evaluation]\"") from error
        found = load_digits()
        places = drawn(found.target, 0.5)[split]
        self.split, self._labels = split, found.target[places]
        self._pictures: np.ndarray = found.images[places]
        self.class_names = [str(digit) for digit in range(10)]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Pair:
        grey = torch.from_numpy(self._pictures[index] * 255 / _WHITE).round().to(torch.uint8)  # (8, 8)
        return Pair(grey.expand(3, -1, -1).contiguous(), (), key=f"{self.split}/{index}", label=int(self._labels[index]))

    def captions(self, index: int) -> tuple[str, ...]:
        """None: images have labels only."""
        return ()


@evaluation_sets.register("digits")
def digits(templates: str | Sequence[str] | None = None) -> EvaluationSet:
    """scikit-learn's digits with MNIST's class names and template.

    Args:
        templates: in the place of MNIST's.
    """
    patterns = resolve_templates(templates or list(SET_TEMPLATES["mnist"]))
    return EvaluationSet(Digits("test"), class_names("mnist"), patterns, train=Digits("train"))
