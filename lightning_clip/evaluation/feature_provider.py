"""`ModelSubject`: a model with one set, as protocols see it; each feature is computed once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.data.image_steps import reading_of
from lightning_clip.evaluation.features import Features
from lightning_clip.evaluation.images import Images
from lightning_clip.evaluation.interface import EvaluatedModel
from lightning_clip.evaluation.scores import Scores, ScoringModel
from lightning_clip.model.predictor import Predictor
from lightning_clip.prompts.classifier import template_vectors, zero_shot_classifier
from lightning_clip.prompts.evaluation_sets import EvaluationSet, open_evaluation_set

__all__ = ["LiveSubject", "ModelSubject"]

Extract = Callable[[EvaluatedModel, Images, "int | None"], Features]
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
        # Pictures that are shown, or looked at place by place, are read as the model reads them.
        self.dataset = replace(dataset, reading=reading_of(model.transform()))
        self.model, self.name = model, name
        self.extracted: list[str] = []
        self._features: dict[tuple[str, str | None], Features] = {}
        self._scores: dict[tuple[str, str, str | None], Features] = {}
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

    @property
    def predictor(self) -> Predictor:
        """The model's predictor, for protocols that look at places of pictures.

        Raises:
            InputError: a model of another library, which has none.
        """
        found = getattr(self.model, "predictor", None)
        if not isinstance(found, Predictor):
            raise InputError(
                f"{self.model.name} is a {type(self.model).__name__}, which has no features of places: open it by this "
                "library, such as open_clip:NAME/WEIGHTS or hf:NAME"
            )
        return found

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
            features = self._made(self.model, self._images(split, corruption), split)
            self._features[key] = features.checked(f"{self.name} ({split})", len(self.dataset.class_names) or None)
        return self._features[key]

    def scores(
        self,
        class_names: Sequence[Any] | None = None,
        templates: Sequence[str] | None = None,
        split: str = "test",
        corruption: str | None = None,
    ) -> Scores:
        """Scores of a split against classes, by the model's own scorer where it has one; see `Subject.scores`.

        Args:
            class_names: C classes, each a name or a list of names; None takes those of the set.
            templates: with {}; None takes those of the set.
            split: "test", "train" or "val".
            corruption: such as "gaussian_noise:3", or None.

        Raises:
            InputError: as `classifier` and `features`, or what the scorer raises.
        """
        names, patterns = self._asked(class_names, templates)
        score = self.model.scorer(names, patterns)
        if score is None:
            features = self.features(split, corruption)
            values = (self.scale * features.image_features) @ self.classifier(names, patterns)  # (N, D) @ (D, C)
        else:
            features = self._scored(score, (names, patterns), split, corruption)
            values = features.image_features  # (N, C)
        return Scores(values, features.label, features.index, features.keys, score is None)

    def caption_scores(self, split: str = "test") -> Scores | None:
        """Scores (N, M) against the M captions of `features(split)`, by the model's own scorer; None where it has none.

        Args:
            split: "test", "train" or "val".
        """
        texts = self.features(split).text_features
        score = self.model.text_scorer(texts) if len(texts) else None
        if score is None:
            return None
        found = self._scored(score, "captions", split, None)
        return Scores(found.image_features, found.label, found.index, found.keys, False)

    def classifier(self, class_names: Sequence[Any] | None = None, templates: Sequence[str] | None = None) -> Tensor:
        """Zero-shot classifier float32 (D, C) with unit columns; several names of a class are averaged in each template.

        Args:
            class_names: C classes, each a name or a list of names; None takes those of the set.
            templates: with {}; None takes those of the set.

        Raises:
            InputError: no class names, an empty one, or a wrong template.
        """
        names, patterns = self._asked(class_names, templates)
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

    def _asked(self, class_names: Sequence[Any] | None, templates: Sequence[str] | None) -> tuple[list[Any], list[str]]:
        """Class names and templates, those of the set where none are given."""
        names = list(self.dataset.class_names if class_names is None else class_names)
        if not names:
            raise InputError(f"{self.name} has no class names: give class_names, in the order of its labels")
        return names, list(self.dataset.templates if templates is None else templates)

    def _images(self, split: str, corruption: str | None) -> Images:
        source = {"test": self.dataset.source, "train": self.dataset.train, "val": self.dataset.val}[split]
        if source is None:
            raise InputError(f"{self.name} has no {split} split, which this protocol needs: give {split}= a source")
        return Images(source, self.model.transform(), corruption)

    def _scored(self, score: Callable[[Tensor], Tensor], against: Any, split: str, corruption: str | None) -> Features:
        """Features of which the image features are scores; `against` names what the images are scored against."""
        key = (repr(against), split, corruption)
        if key not in self._scores:
            scoring = ScoringModel(self.model, score).eval()
            found = self._made(scoring, self._images(split, corruption), split, (against, self.model.scoring_settings()))
            classes = len(self.dataset.class_names) or None
            self._scores[key] = found.checked(f"{self.name} ({split})", classes, scores=True)
        return self._scores[key]

    @abstractmethod
    def _made(self, model: EvaluatedModel, images: Images, split: str, against: Any = None) -> Features:
        """What a model makes of images, computed or found; `against` tells its scores from others, None for features."""

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
        make: encodes images with a model; gets the number of classes where an image may have several, else None.
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

    def _made(self, model: EvaluatedModel, images: Images, split: str, against: Any = None) -> Features:
        self.extracted.append(f"{self.name}-{split}")
        return self._make(model, images, self._classes())
