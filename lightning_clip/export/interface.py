"""What an export sees of a module: a model with its tokenizer, preprocessing and settings, and never the module itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from lightning_clip.data.tokenizers import Tokenizer
    from lightning_clip.data.transforms import ImageTransformSettings
    from lightning_clip.model.predictor import Predictor
    from lightning_clip.model.recipe import Recipe
    from lightning_clip.model.space import SharedSpace
    from lightning_clip.objectives import Objective

__all__ = ["Exportable"]


class Exportable(Protocol):
    """A `ClipModule`, or whatever else has this."""

    tokenizer: Tokenizer
    recipe: Recipe

    @property
    def model(self) -> SharedSpace:
        """Towers, heads and temperature, built."""

    @property
    def predictor(self) -> Predictor:
        """The model in use."""

    @property
    def embed_dim(self) -> int:
        """Width of the shared space."""

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""

    @property
    def transform_settings(self) -> ImageTransformSettings:
        """How pixels reach the image tower."""

    @property
    def training_settings(self) -> Any:
        """How it was trained; whose `adapt.text.new_tokens` are tried in the comparison."""

    @property
    def training_parts(self) -> frozenset[str]:
        """Names of parts of the model that only training needs."""

    @property
    def objective(self) -> Objective:
        """What was learned."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def to_mapping(self) -> dict[str, Any]:
        """Names and plain settings of all that the module is made of."""

    def state_dict(self) -> dict[str, Any]:
        """All weights by name."""

    def modules(self) -> Any:
        """All layers."""

    def eval(self) -> Any:
        """Puts all layers into evaluation mode."""

    def to(self, device: torch.device | str) -> Any:
        """Moves the weights."""
