"""`ClipModel`: the shared space of an image and a text tower (Radford et al. 2021). Plain PyTorch."""

from __future__ import annotations

from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.encoders import ImageEncoder, TextEncoder, image_encoders, projections, text_encoders
from lightning_clip.model.space import CLIP_MEAN, CLIP_STD, SharedSpace

__all__ = ["ClipModel"]


class ClipModel(SharedSpace):
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
        >>> import torch
        >>> model = ClipModel(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 1},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2, "vocab_size": 100},
        ...     embed_dim=16,
        ... )
        >>> output = model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 8, dtype=torch.long))
        >>> output.image_features.shape, output.text_features.shape
        (torch.Size([2, 16]), torch.Size([2, 16]))
    """

    image_encoder: ImageEncoder
    text_encoder: TextEncoder

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
        towers = {"image": image_encoders.build(image_encoder), "text": text_encoders.build(text_encoder)}
        specs = head_specs(projection)
        heads = {
            column: projections.build(specs[column], input_dim=tower.output_dim, embed_dim=embed_dim)  # type: ignore[attr-defined]
            for column, tower in towers.items()
        }
        temperature = {"initial_scale": initial_scale, "initial_bias": initial_bias}
        super().__init__(towers, heads, embed_dim=embed_dim, **temperature, mean=mean, std=std)  # type: ignore[arg-type]


def head_specs(projection: Any) -> dict[str, Any]:
    """The heads of both towers from one for both, or from a mapping of the two.

    Raises:
        InputError: a mapping of something else.
    """
    if not isinstance(projection, dict) or "name" in projection:
        return {"image": projection, "text": projection}
    if set(projection) != {"image", "text"}:
        raise InputError(f"projection {projection!r} must have 'name', or both 'image' and 'text'")
    return projection
