"""`EvaluatedModel`: what evaluation sees of a model, images and strings in, features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_clip.data.transforms import ImageTransformSettings, evaluation_transform
from lightning_clip.model.identity import model_identity

__all__ = ["EvaluatedModel"]


class EvaluatedModel(nn.Module, ABC):
    """A model with its preprocessing, in evaluation mode, as protocols need it.

    Models of other libraries are evaluated through a subclass of their own, which `run_suite` takes; models of this one are
    a `PredictorModel`.

    Args:
        name: in tables.
        image_size: side S of the images in pixels.

    Attributes:
        reads_texts: whether it encodes texts; without, captions of a set are passed over.

    Examples:
        >>> class Blind(EvaluatedModel):
        ...     scale = 100.0
        ...
        ...     def encode_image(self, image):
        ...         return torch.ones(len(image), 1), torch.ones(len(image), 1)
        ...
        ...     def encode_text(self, texts, batch_size=256):
        ...         return torch.ones(len(texts), 1)
        >>> Blind("blind", image_size=32).transform()(torch.zeros(3, 64, 48, dtype=torch.uint8)).shape
        torch.Size([3, 32, 32])
    """

    reads_texts: bool = True

    def __init__(self, name: str, image_size: int) -> None:
        super().__init__()
        self.name, self.image_size = name, image_size
        self._identity = ""

    @property
    @abstractmethod
    def scale(self) -> float:
        """The inverse temperature."""

    @abstractmethod
    def encode_image(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Unit features (B, D) and those before the projection (B, W), in float32.

        Args:
            image: uint8 (B, 3, S, S) on `device`.
        """

    @abstractmethod
    def encode_text(self, texts: Sequence[str], batch_size: int = 256) -> Tensor:
        """Unit features (B, D) in float32 on the CPU.

        Args:
            texts: B strings.
            batch_size: encoded at a time, at least 1.
        """

    def scorer(self, class_names: Sequence[Any], templates: Sequence[str]) -> Callable[[Tensor], Tensor] | None:
        """uint8 images (B, 3, S, S) -> scores (B, C) against classes; None, the default, for similarities to their prompts.

        Args:
            class_names: C classes, each a name or a list of names.
            templates: with {}.
        """
        return None

    def text_scorer(self, text_features: Tensor) -> Callable[[Tensor], Tensor] | None:
        """uint8 images (B, 3, S, S) -> scores (B, N) against encoded texts; None, the default, for similarities.

        Args:
            text_features: (N, D), as `encode_text` gives them.
        """
        return None

    def scoring_settings(self) -> Any:
        """What besides weights and names decides about the scores of `scorer` and `text_scorer`."""
        return None

    def transform(self) -> nn.Module:
        """uint8 (3, H, W) of any size -> uint8 (3, S, S); CLIP's resize and crop unless a subclass has another."""
        return evaluation_transform(self.image_size, ImageTransformSettings())

    @property
    def device(self) -> torch.device:
        """Where `encode_image` wants its images: where the parameters are."""
        first = next(self.parameters(), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def identity(self) -> str:
        """A short name for these very weights, this preprocessing and this vocabulary; features are kept under it."""
        if not self._identity:
            settings = type(self).__name__, self.image_size, self.transform(), self.text_settings()
            self._identity = model_identity(self, *settings)
        return self._identity

    def text_settings(self) -> Any:
        """What besides the weights decides about text features, such as the vocabulary."""
        return None
