"""Dense features of pictures: one unit vector of the shared space for each place."""

from __future__ import annotations

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.encoders.dense import TokenGrid
from lightning_clip.encoders.dense_methods import DenseMethod
from lightning_clip.model.evaluating import evaluating
from lightning_clip.model.inputs import ImageInput
from lightning_clip.model.predictor import Predictor

__all__ = ["dense_features"]


def dense_features(
    predictor: Predictor, images: ImageInput, method: str | DenseMethod | None = None, batch_size: int = 32
) -> TokenGrid:
    """Unit features of the tokens of pictures, which may be compared to those of texts.

    Args:
        predictor: of a model whose image tower is a ViT or a convolutional network, ours, open_clip's or transformers'.
        images: as for `Predictor.encode_image`; each is brought to the model's square, as there.
        method: "plain" (the tokens as they are), "maskclip", "sclip", "clearclip", "naclip", or what is registered in
            `dense_methods`; None takes "naclip" for a ViT, else "plain".
        batch_size: images encoded at a time, at least 1.

    Returns:
        `prefix` (B, P, D) of class and register tokens, and `grid` (B, rows, columns, D) of the places.

    Raises:
        InputError: a tower without features of places, an unknown method, or no images.

    Examples:
        >>> from lightning_clip import ClipModule
        >>> module = ClipModule(
        ...     {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 2},
        ...     {"name": "clip_text", "width": 32, "layers": 1, "heads": 2},
        ...     embed_dim=16,
        ... )
        >>> found = dense_features(module.predictor, torch.zeros(1, 3, 40, 60, dtype=torch.uint8), method="sclip")
        >>> found.prefix.shape, found.grid.shape
        (torch.Size([1, 1, 16]), torch.Size([1, 4, 4, 16]))
    """
    with evaluating(predictor.model):
        parts = [predictor.model.encode_dense(pixels, method) for pixels in predictor.pixels(images, batch_size)]
    if not parts:
        raise InputError("images are empty: give at least one picture")
    return TokenGrid(torch.cat([part.prefix for part in parts]), torch.cat([part.grid for part in parts]))
