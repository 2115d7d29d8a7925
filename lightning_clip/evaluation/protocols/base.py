"""`Protocol`, the seam of evaluation: a model's features of one set -> figures and sections of a report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from typing import Protocol as Interface

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.registry import Registry
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.scores import Scores
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.reporting.html import Section

__all__ = ["Protocol", "Result", "Subject", "headed", "protocols"]


class Subject(Interface):
    """A model with one set, as a protocol sees them; everything it hands out is computed once and kept on disk.

    Attributes:
        dataset: the images of the test split, their class names and templates, and the training split if there is one.
        scale: inverse temperature of the model.
        device: where to compute.
    """

    dataset: EvaluationSet

    @property
    def scale(self) -> float:
        """The inverse temperature of the model."""
        ...

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        ...

    @property
    def predictor(self) -> Predictor:
        """The model's predictor, for protocols that look at places of pictures; an InputError where it has none."""
        ...

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        """Features of a split, sorted by place in the source.

        Args:
            split: "test", "train" or "val".
            corruption: such as "gaussian_noise:3", or None.
        """
        ...

    def scores(
        self,
        class_names: Sequence[Any] | None = None,
        templates: Sequence[str] | None = None,
        split: str = "test",
        corruption: str | None = None,
    ) -> Scores:
        """Scores of a split against classes: what the model's objective scores by, by default scale times cosine.

        Args:
            class_names: C classes, each a name or a list of names; None takes those of the set.
            templates: with {}; None takes those of the set.
            split: "test", "train" or "val".
            corruption: such as "gaussian_noise:3", or None.
        """
        ...

    def caption_scores(self, split: str = "test") -> Scores | None:
        """Scores (N, M) against the captions of `features(split)` where the objective has others than cosines, else None.

        Args:
            split: "test", "train" or "val".
        """
        ...

    def classifier(self, class_names: Sequence[Any] | None = None, templates: Sequence[str] | None = None) -> Tensor:
        """Zero-shot classifier float32 (D, C) with unit columns.

        Args:
            class_names: C classes; None takes those of the set.
            templates: with {}; None takes those of the set.
        """
        ...

    def template_vectors(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        """Unit features float32 (T, C, D) of each template with each class.

        Args:
            class_names: C classes, each a name or a list of names.
            templates: T of them, with {}.
        """
        ...

    def other(self, name: str, spec: Any) -> Subject:
        """The same model with another set.

        Args:
            name: of the set.
            spec: as a suite describes it.
        """
        ...

    def encode_images(self, images: Sequence[Tensor]) -> Tensor:
        """Unit features float32 (B, D).

        Args:
            images: B of them, uint8 (3, H, W) of any size.
        """
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features float32 (B, D).

        Args:
            texts: B strings.
        """
        ...


@dataclass
class Result:
    """What a protocol found out about a model on a set; plain types, so that it can be kept as JSON.

    Attributes:
        metrics: name -> value; shares in [0, 1]. The first is the headline.
        chance: the same names -> what guessing would give, where that is known.
        per_image: a figure for each test image whose mean is the headline, for confidence intervals and paired comparison.
        details: whatever the sections of the report need: curves, counts, places of examples in the source.
    """

    metrics: dict[str, float]
    chance: dict[str, float] = field(default_factory=dict)
    per_image: list[float] | None = None
    details: dict[str, Any] = field(default_factory=dict)


def headed(result: Result, measure: str) -> Result:
    """A result whose headline is one of its measures, as a set's authors report it.

    Args:
        result: what was found.
        measure: its name; "" for the first there is.

    Raises:
        InputError: the result has no such measure.

    Examples:
        >>> list(headed(Result({"top1": 0.5, "mean_per_class": 0.4}), "mean_per_class").metrics)
        ['mean_per_class', 'top1']
    """
    if not measure:
        return result
    if measure not in result.metrics:
        raise InputError(f"measure {measure!r} is none of this set: {nearest(measure, result.metrics)}")
    return replace(result, metrics={measure: result.metrics[measure], **result.metrics})


class Protocol(ABC):
    """One way to measure a model; a subclass registered in `protocols` is one file.

    Settings are the constructor's arguments, all with defaults, kept as attributes of the same name.

    Attributes:
        title: heading in the report.
    """

    title: str

    @abstractmethod
    def evaluate(self, subject: Subject) -> Result:
        """Measures a model on a set.

        Args:
            subject: the model with the set.

        Raises:
            InputError: the set lacks what this protocol needs.
        """

    @abstractmethod
    def sections(self, results: Mapping[str, Result], dataset: EvaluationSet) -> list[Section]:
        """Parts of the report that show the results on one set.

        Args:
            results: by name of the model.
            dataset: the set.
        """


protocols: Registry[Protocol] = Registry("protocol")
