"""Any Hugging Face vision model as an image tower, by its name, folder or configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.encoders.base import ImageEncoder, image_encoders
from lightning_clip.encoders.dense import DenseView
from lightning_clip.encoders.dense_maps import hidden_state_view
from lightning_clip.encoders.dense_vits import TransformersVit
from lightning_clip.encoders.huggingface_towers import checkpoint_layers, describe, family_of, load, longest_list
from lightning_clip.encoders.timm_image import tokens_of

__all__ = ["HuggingFaceImageEncoder"]

_POOLINGS: dict[str, Callable[[Any], Tensor]] = {
    "pooler": lambda outputs: outputs.pooler_output.flatten(1),  # (B, W) or (B, W, 1, 1) -> (B, W)
    "cls": lambda outputs: outputs.last_hidden_state[:, 0],  # (B, L, W) -> (B, W)
    "mean": lambda outputs: outputs.last_hidden_state.mean(dim=1),  # (B, L, W) -> (B, W)
}


@image_encoders.register("hf")
class HuggingFaceImageEncoder(ImageEncoder):
    """A transformers vision model with its own pooled output, or pooled over its tokens.

    Args:
        path: hub name or local folder; its weights are loaded unless `pretrained` is off. None with `config`.
        pooling: "pooler" (the model's own), "cls" (first token) or "mean".
        pretrained: False builds the architecture with random weights.
        config: a transformers configuration as a mapping with "model_type", instead of `path`; the image tower of a two-tower
            family is {"model_type": "siglip", "vision_config": {...}}.

    Raises:
        InputError: unknown pooling, or no such model.

    Examples:
        >>> import torch
        >>> tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
        ...         "image_size": 32, "patch_size": 16}
        >>> encoder = HuggingFaceImageEncoder(config={"model_type": "siglip", "vision_config": tiny})
        >>> encoder(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        path: str | None = None,
        pooling: str = "pooler",
        *,
        pretrained: bool = True,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        if pooling not in _POOLINGS:
            raise InputError(f"unknown pooling {pooling!r}: {nearest(pooling, _POOLINGS)}")
        model = load(path, "image", pretrained, config)
        size = getattr(model.config, "image_size", None) or 224
        own = model.config  # ALIGN's EfficientNet has a hidden_dim
        width = getattr(own, "hidden_size", None) or getattr(own, "hidden_dim", None) or own.hidden_sizes[-1]
        super().__init__(output_dim=int(width), image_size=int(size if isinstance(size, int) else size[0]))
        self.pooling, self.model = pooling, model
        self.architecture = family_of(model) or model.config.model_type

    @property
    def family(self) -> str | None:
        """The two-tower family of transformers that the model was taken from, None for a model of its own."""
        return family_of(self.model)

    def forward(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, output_dim), by the pooling."""
        return _POOLINGS[self.pooling](self.model(pixel_values=image))

    def forward_tokens(self, image: Tensor) -> Tensor:
        """Normalised float pixels (B, 3, S, S) -> (B, L, W): the model's last hidden state."""
        return tokens_of(self.model(pixel_values=image).last_hidden_state)

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised float pixels (B, 3, S, S) -> features (B, output_dim) and tokens (B, L, W), in one pass."""
        outputs = self.model(pixel_values=image)
        return _POOLINGS[self.pooling](outputs), tokens_of(outputs.last_hidden_state)

    def dense_view(self) -> DenseView:
        """CLIP's and SigLIP's ViT block by block; of other models their last hidden state."""
        if TransformersVit.fits(self.model):
            return TransformersVit(self.model, self.pooling)
        return hidden_state_view(self.model, self.pooling)

    def blocks(self) -> list[nn.Module]:
        """The longest list of layers in the model."""
        return longest_list(self.model)

    def checkpoint_blocks(self) -> None:
        """By transformers' own checkpointing.

        Raises:
            InputError: the model has none.
        """
        checkpoint_layers(self.model, "image")

    def to_mapping(self) -> dict[str, Any]:
        """The pooling and the model's configuration."""
        return {"name": "hf", "pooling": self.pooling, "config": describe(self.model)}
