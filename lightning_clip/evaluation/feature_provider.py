"""`ModelSubject`: a model with one set, as protocols see it; each feature is computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.data.sources import PairSource
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.prompts.classifier import template_vectors, zero_shot_classifier
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["LiveSubject", "ModelSubject"]

Extract = Callable[[Images, "int | None"], Features]
_ALL_AT_ONCE = 1 << 30  # prompts: the model makes batches of equal length itself
_MOST_KEPT = 1 << 17  # prompts whose features are held: ImageNet's 80,000 are; 10,000 classes with 80 templates are 2.4 GB


class ModelSubject(ABC):
    """A `Subject` made of a model and a set.

    Args:
        model: what is evaluated.
        dataset: on what.
        name: of the set.

    Attributes:
        extracted: names of the features that were computed, not found.
    """

    def __init__(self, model: EvaluatedModel, dataset: EvaluationSet, name: str) -> None:
        self.model, self.dataset, self.name = model, dataset, name
        self.extracted: list[str] = []
        self._features: dict[tuple[str, str | None], Features] = {}
        self._vectors: dict[tuple[tuple[str, ...], str], Tensor] = {}
        self._classifiers: dict[tuple[tuple[str, ...], tuple[str, ...]], Tensor] = {}

    @property
    def scale(self) -> float:
        """The model's inverse temperature."""
        return self.model.scale

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def features(self, split: str = "test", corruption: str | None = None) -> Features:
        """Features of a split, computed on first use; see `Subject.features`.

        Args:
            split: "test", "train" or "val".
            corruption: such as "gaussian_noise:3", or None.

        Raises:
            InputError: the set has no such split, or its features cannot be evaluated.
        """
        key = (split, corruption)
        if key not in self._features:
            source = {"test": self.dataset.source, "train": self.dataset.train, "val": self.dataset.val}[split]
            if source is None:
                raise InputError(f"{self.name} has no {split} split, which this protocol needs: give {split}= a source")
            self._features[key] = self._read(source, split, corruption)
        return self._features[key]

    def classifier(self, class_names: Sequence[Any] | None = None, templates: Sequence[str] | None = None) -> Tensor:
        """Zero-shot classifier float32 (D, C) with unit columns; several names of a class are averaged in each template.

        Args:
            class_names: C classes, each a name or a list of names; None takes those of the set.
            templates: with {}; None takes those of the set.

        Raises:
            InputError: no class names, an empty one, or a wrong template.
        """
        names = list(self.dataset.class_names if class_names is None else class_names)
        patterns = list(self.dataset.templates if templates is None else templates)
        if not names:
            raise InputError(f"{self.name} has no class names: give class_names, in the order of its labels")
        if len(names) * len(patterns) <= _MOST_KEPT:
            return normalize(self.template_vectors(names, patterns).sum(dim=0), dim=-1).T
        key = (tuple(map(str, names)), tuple(patterns))
        if key not in self._classifiers:
            self._classifiers = {key: self._class_embeddings(names, patterns)}  # the last alone
        return self._classifiers[key]

    def template_vectors(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        """Unit features float32 (T, C, D) of each template with each class, each computed once.

        Args:
            class_names: C classes, each a name or a list of names, which are averaged.
            templates: T of them, with {}.

        Raises:
            InputError: an empty class name, or a wrong template.
        """
        names = tuple(map(str, class_names))
        missing = [pattern for pattern in dict.fromkeys(templates) if (names, pattern) not in self._vectors]
        if missing:
            found = self._class_vectors(class_names, missing)
            self._vectors |= {(names, pattern): found[row] for row, pattern in enumerate(missing)}
        return torch.stack([self._vectors[names, pattern] for pattern in templates])

    @abstractmethod
    def other(self, name: str, spec: Any) -> ModelSubject:
        """The same model with another set.

        Args:
            name: of the set.
            spec: as a suite describes it.
        """

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features float32 (B, D) of texts.

        Args:
            texts: B strings.
        """
        return self.model.encode_text(texts)

    def encode_images(self, images: Sequence[Tensor]) -> Tensor:
        """Unit features float32 (B, D) of images, on the CPU.

        Args:
            images: B of them, uint8 (3, H, W) of any size.
        """
        transform, parts = self.model.transform(), []
        with torch.no_grad():
            for start in range(0, len(images), 256):
                pixels = torch.stack([transform(image) for image in images[start : start + 256]])
                parts.append(self.model.encode_image(pixels.to(self.device))[0].cpu())
        return torch.cat(parts)

    def _read(self, source: PairSource, split: str, corruption: str | None) -> Features:
        features = self._made(Images(source, self.model.transform(), corruption), split)
        return features.checked(f"{self.name} ({split})", len(self.dataset.class_names) or None)

    @abstractmethod
    def _made(self, images: Images, split: str) -> Features:
        """Features of images, computed or found."""

    def _classes(self) -> int | None:
        return len(self.dataset.class_names) if self.dataset.multilabel else None

    def _class_vectors(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        return template_vectors(self.model.encode_text, class_names, templates, _ALL_AT_ONCE)

    def _class_embeddings(self, class_names: Sequence[Any], templates: Sequence[str]) -> Tensor:
        """The classifier float32 (D, C), without holding each template's features."""
        return zero_shot_classifier(self.model.encode_text, class_names, templates, _ALL_AT_ONCE)


class LiveSubject(ModelSubject):
    """A `Subject` that holds what it has computed in memory only: a model at work.

    Args:
        model: what is evaluated.
        dataset: on what.
        name: of the set.
        make: encodes images; gets the number of classes where an image may have several, else None.
    """

    def __init__(self, model: EvaluatedModel, dataset: EvaluationSet, name: str, make: Extract) -> None:
        super().__init__(model, dataset, name)
        self._make = make

    def other(self, name: str, spec: Any) -> LiveSubject:
        """The same model with another set.

        Args:
            name: of the set.
            spec: as a suite describes it.
        """
        return LiveSubject(self.model, open_evaluation_set(spec), name, self._make)

    def _made(self, images: Images, split: str) -> Features:
        self.extracted.append(f"{self.name}-{split}")
        return self._make(images, self._classes())
