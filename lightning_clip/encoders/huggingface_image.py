"""Any Hugging Face vision model as an image tower: a name, folder or configuration arrives, an `ImageEncoder` leaves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.encoders.base import ImageEncoder, image_encoders
from lightning_clip.encoders.huggingface_towers import describe, load
from lightning_clip.encoders.timm_image import tokens_of

__all__ = ["HuggingFaceImageEncoder"]

_POOLINGS: dict[str, Callable[[Any], Tensor]] = {
    "pooler": lambda outputs: outputs.pooler_output.flatten(1),
    "cls": lambda outputs: outputs.last_hidden_state[:, 0],
    "mean": lambda outputs: outputs.last_hidden_state.mean(dim=1),
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
        width = getattr(model.config, "hidden_size", None) or model.config.hidden_sizes[-1]
        super().__init__(output_dim=int(width), image_size=int(size if isinstance(size, int) else size[0]))
        self.pooling, self.model = pooling, model

    def forward(self, image: Tensor) -> Tensor:
        return _POOLINGS[self.pooling](self.model(pixel_values=image))

    def forward_tokens(self, image: Tensor) -> Tensor:
        return tokens_of(self.model(pixel_values=image).last_hidden_state)

    def forward_both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(pixel_values=image)
        return _POOLINGS[self.pooling](outputs), tokens_of(outputs.last_hidden_state)

    def blocks(self) -> list[nn.Module]:
        lists = [list(layers) for layers in self.model.modules() if isinstance(layers, nn.ModuleList)]
        return max(lists, key=len, default=[])

    def checkpoint_blocks(self) -> None:
        try:
            name = "activation_checkpointing_enable"  # renamed in transformers 5
            enable = getattr(self.model, name, None) or self.model.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        except ValueError as error:
            raise InputError(f"{error} Omit 'image' from execution.checkpoint.") from error

    def to_mapping(self) -> dict[str, Any]:
        return {"name": "hf", "pooling": self.pooling, "config": describe(self.model)}
