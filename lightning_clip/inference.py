"""Using a model: pictures and strings of any kind arrive, unit features leave, without gradients or traces in the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_clip.data.tokenizers import Tokenizer
from lightning_clip.data.transforms import from_pil
from lightning_clip.errors import InputError

__all__ = ["evaluating", "pixel_batches", "token_batches"]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards each submodule is in the mode in which it was."""
    training = [layer for layer in model.modules() if layer.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for layer in training:
            layer.training = True


def pixel_batches(
    images: Tensor | Image.Image | Sequence[Image.Image], transform: nn.Module, size: int, batch_size: int
) -> Iterator[Tensor]:
    """Pictures as uint8 (B, 3, size, size) in batches.

    Args:
        images: uint8 (B, 3, H, W) of any size, one PIL image or a list of them.
        transform: brings other sizes to `size`.
        size: side in pixels; tensors of that size are taken as they are.
        batch_size: the largest B.

    Raises:
        InputError: a tensor of another shape or type.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4 or images.dtype != torch.uint8:
            raise InputError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        for part in torch.split(images, batch_size):
            yield part if part.shape[-2:] == (size, size) else transform(part)
        return
    pictures = [images] if isinstance(images, Image.Image) else images
    for start in range(0, len(pictures), batch_size):
        yield torch.stack([transform(from_pil(picture)) for picture in pictures[start : start + batch_size]])


def token_batches(
    texts: str | Sequence[str] | Tensor, tokenizer: Tokenizer, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Texts as tokens int64 (B, L) with their mask bool (B, L), in batches.

    Args:
        texts: one string, strings, or token ids (B, L) padded on the right with the tokenizer's `pad_id`.
        tokenizer: for strings.
        batch_size: the largest B.
    """
    if isinstance(texts, Tensor):
        for tokens in torch.split(texts, batch_size):
            # True up to the last token that is no padding: the id of padding may also occur inside a text.
            yield tokens, (tokens != tokenizer.pad_id).flip(1).cumsum(1).flip(1) > 0
        return
    strings = [texts] if isinstance(texts, str) else list(texts)
    for start in range(0, len(strings), batch_size):
        yield tokenizer(strings[start : start + batch_size])
