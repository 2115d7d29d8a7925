"""Images, token ids and strings of any kind as batches that towers read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from lightning_clip.core.errors import InputError
from lightning_clip.data.decoding import from_pil
from lightning_clip.data.tokenizers import Tokenizer, checked
from lightning_clip.encoders.padding import right_padded

__all__ = ["ImageInput", "encode_texts", "image_parts", "pixel_batches", "token_batches"]

ImageInput = Tensor | Image.Image | Sequence[Image.Image]


def image_parts(images: ImageInput, batch_size: int) -> Iterator[Tensor | Sequence[Image.Image]]:
    """Images as they are, so many at a time.

    Args:
        images: uint8 (B, 3, H, W), one PIL image or a list of them.
        batch_size: images in a part, at least 1.

    Raises:
        InputError: an empty list.
    """
    if isinstance(images, Tensor):
        yield from torch.split(images, batch_size)
        return
    several = [images] if isinstance(images, Image.Image) else images
    if not len(several):
        raise InputError("images is an empty list: give at least one image")
    for start in range(0, len(several), batch_size):
        yield several[start : start + batch_size]


def pixel_batches(images: ImageInput, transform: nn.Module, size: int, batch_size: int) -> Iterator[Tensor]:
    """Images as uint8 (B, 3, size, size) in batches.

    Args:
        images: uint8 (B, 3, H, W) of any size, one PIL image or a list of them.
        transform: brings other sizes to `size`.
        size: side in pixels; tensors of that size are taken as they are.
        batch_size: the largest B, at least 1.

    Raises:
        InputError: a tensor of another shape or type, or an empty list.
    """
    if isinstance(images, Tensor) and (images.ndim != 4 or images.dtype != torch.uint8):
        raise InputError(
            f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}: give pixels of 0 to 255 as they "
            "were decoded; the model normalises them"
        )
    for part in image_parts(images, batch_size):
        if isinstance(part, Tensor):
            yield part if part.shape[-2:] == (size, size) else transform(part)  # (B, 3, H, W) -> (B, 3, S, S)
        else:
            yield torch.stack([transform(from_pil(picture)) for picture in part])


def token_batches(tokens: Tensor, pad_id: int, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids with their mask bool (B, L), in batches.

    Args:
        tokens: int64 (N, L), padded on either side.
        pad_id: of padding; it may also occur inside a text.
        batch_size: the largest B, at least 1.
    """
    for part in torch.split(tokens, batch_size):
        yield right_padded(part, pad_id)


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, batch_size: int, encode: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Features (B, D) in the order of the texts: each distinct one once, among others of its length and cut to it.

    Args:
        texts: strings.
        tokenizer: of the text tower.
        batch_size: texts encoded at a time, at least 1.
        encode: tokens int64 (B, L) and mask bool (B, L) -> features (B, D).

    Raises:
        InputError: what is no string, or no text at all.
    """
    distinct = list(dict.fromkeys(checked(texts)))
    if not distinct:
        raise InputError("texts is an empty list: give at least one text")
    rows = dict(zip(distinct, tokenizer.encode(distinct), strict=True))
    order = sorted(distinct, key=lambda text: len(rows[text]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    features = torch.cat([encode(*tokenizer.padded([rows[text] for text in batch])) for batch in batches])
    place = {text: number for number, text in enumerate(order)}
    return features[torch.tensor([place[text] for text in texts], device=features.device)]
