"""`Exportable`: what export asks of a trained model, which `ClipModule` and its subclasses answer."""

from __future__ import annotations

from typing import Any, Protocol

from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import ImageTransformSettings
from lightning_clip.model.predictor import Predictor
from lightning_clip.model.recipe import Recipe
from lightning_clip.model.space import SharedSpace
from lightning_clip.objectives import Objective

__all__ = ["Exportable"]


class Exportable(Protocol):
    """A trained model with all that is needed to use it elsewhere."""

    @property
    def model(self) -> SharedSpace:
        """Towers, heads and temperature."""
        ...

    @property
    def recipe(self) -> Recipe:
        """What the model was made of."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the text tower; None where no tower reads texts."""
        ...

    @property
    def predictor(self) -> Predictor:
        """Encodes images and texts with the weights as they are now."""
        ...

    @property
    def embed_dim(self) -> int:
        """Width D of the shared space."""
        ...

    @property
    def image_size(self) -> int:
        """Side S of the images in pixels."""
        ...

    @property
    def transform_settings(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""
        ...

    @property
    def objective(self) -> Objective:
        """What it learned, named in the model card."""
        ...

    @property
    def training_settings(self) -> Any:
        """How it was trained: `adapt.text.new_tokens` are tried among the texts that are compared."""
        ...

    @property
    def training_parts(self) -> frozenset[str]:
        """Names of parts of the model that only training needs."""
        ...

    def to_mapping(self) -> dict[str, Any]:
        """The arguments that build it again, as plain mappings."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All weights by name, those of the model under "model."."""
        ...
