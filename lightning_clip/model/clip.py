"""`ClipModel`: pixels and tokens arrive, unit features in one shared space leave. Plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import ClipOutput
from lightning_clip.encoders import ImageEncoder, TextEncoder, image_encoders, projections, text_encoders
from lightning_clip.encoders.chunks import encode_in_chunks

__all__ = ["CLIP_MEAN", "CLIP_STD", "ClipModel"]

# Of CLIP's training images, per channel, for pixels in [0, 1] (openai/CLIP).
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipModel(nn.Module):
    """Two encoders, two heads and a learned temperature (Radford et al. 2021, Figure 3).

    Args:
        image_encoder: name, mapping or instance.
        text_encoder: name, mapping or instance.
        embed_dim: width D of the shared space.
        projection: head of both towers ("linear", "mlp", "none"), or {"image": ..., "text": ...}.
        initial_scale: inverse temperature at the start.
        initial_bias: start of a learned logit bias, or None for no bias.
        mean: per channel, for pixels in [0, 1].
        std: likewise.

    Raises:
        InputError: an unknown name or setting, or widths that the projection cannot bridge.

    Examples:
        >>> model = ClipModel(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2, "vocab_size": 100},
        ...     embed_dim=16,
        ... )
        >>> output = model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 8, dtype=torch.long))
        >>> output.image_features.shape, output.text_features.shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        image_encoder: str | dict[str, Any] | ImageEncoder,
        text_encoder: str | dict[str, Any] | TextEncoder,
        *,
        embed_dim: int = 512,
        projection: str | dict[str, Any] = "linear",
        initial_scale: float = 1 / 0.07,
        initial_bias: float | None = None,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
    ) -> None:
        super().__init__()
        self.text_chunks = 4
        self.memory_format = torch.contiguous_format
        self.image_encoder = image_encoders.build(image_encoder)
        self.text_encoder = text_encoders.build(text_encoder)
        heads = projection if isinstance(projection, dict) and "name" not in projection else None
        if heads is not None and set(heads) != {"image", "text"}:
            raise InputError(f"projection {projection!r} must have 'name', or both 'image' and 'text'")
        image_head, text_head = (heads["image"], heads["text"]) if heads else (projection, projection)
        self.image_projection = projections.build(image_head, input_dim=self.image_encoder.output_dim, embed_dim=embed_dim)
        self.text_projection = projections.build(text_head, input_dim=self.text_encoder.output_dim, embed_dim=embed_dim)
        # Shape (1,) because sharding strategies cannot split a 0-d parameter.
        self.logit_scale = nn.Parameter(torch.full((1,), math.log(initial_scale)))
        self.logit_bias = None if initial_bias is None else nn.Parameter(torch.full((1,), float(initial_bias)))
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def scale(self) -> Tensor:
        """The inverse temperature (1,), without gradient; whole also where parameters are sharded."""
        value = self.logit_scale.detach()
        return (value.full_tensor() if isinstance(value, DTensor) else value).exp()

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), or what `image_backbone` made of them (B, W) -> unit features (B, D)."""
        backbone = image if image.ndim == 2 else self.image_backbone(image)
        return normalize(self.image_projection(backbone), dim=-1)

    def image_backbone(self, image: Tensor) -> Tensor:
        """Uint8 pixels, or float ones already normalised, (B, 3, H, W) -> features of the image tower (B, W)."""
        if image.dtype == torch.uint8:
            image = (image.to(self.mean.dtype) / 255 - self.mean) / self.std
        features: Tensor = self.image_encoder(image.contiguous(memory_format=self.memory_format))
        return features

    def encode_text(self, tokens: Tensor, mask: Tensor | None = None, lengths: Sequence[int] | None = None) -> Tensor:
        """Token ids int64 (B, L) and mask bool (B, L), None meaning no padding -> unit features (B, D).

        Captions are encoded in `text_chunks` chunks by length; `lengths` of the captions, where they are known, save
        waiting for the device.
        """
        mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        features = encode_in_chunks(self.text_encoder, tokens, mask, lengths, self.text_chunks)
        return normalize(self.text_projection(features), dim=-1)

    def forward(
        self,
        image: Tensor | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        lengths: Sequence[int] | None = None,
    ) -> ClipOutput:
        """Encodes what is given; a modality that is None stays None in the output."""
        # First, and as values of their own: a sharding strategy may take the parameters away after each encoder.
        scale = self.logit_scale.exp()
        bias = None if self.logit_bias is None else self.logit_bias.clone()
        return ClipOutput(
            image_features=None if image is None else self.encode_image(image),
            text_features=None if tokens is None else self.encode_text(tokens, mask, lengths),
            scale=scale,
            bias=bias,
        )
