"""Images, token ids and strings of any kind as batches that towers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.patches import is_packed, stack_images
from lightning_clip.core.settings import in_range
from lightning_clip.data.decoding import decode
from lightning_clip.data.image_steps import reading_of
from lightning_clip.data.items import as_uint8, image_of_item
from lightning_clip.data.patched import ToPatches
from lightning_clip.data.pixel_values import CONVENTION, PixelReading
from lightning_clip.data.tokenizers import Tokenizer, checked
from lightning_clip.encoders.padding import right_padded

__all__ = [
    "ImageInput",
    "TextInput",
    "encode_texts",
    "image_parts",
    "joined",
    "makes_patches",
    "one_picture",
    "picture_pixels",
    "pixel_batches",
    "text_list",
    "token_batches",
]

# One image, or several in a list, a generator or one tensor or array.
OneImage = Tensor | np.ndarray[Any, Any] | Image.Image | bytes | str | Path
ImageInput = OneImage | Iterable[OneImage]
TextInput = str | Iterable[str] | Tensor | np.ndarray[Any, Any]


def one_picture(image: ImageInput, asked: str, remedy: str) -> Any:
    """The only picture among those that are given, of any kind.

    Args:
        image: as for `image_parts`.
        asked: what reads one, as the error names it.
        remedy: what the error says after "call it for each".

    Raises:
        InputError: not exactly one.
    """
    found = [single for part in image_parts(image, 2) for single in part]
    if len(found) != 1:
        raise InputError(f"{asked} reads one picture, got {len(found)}: call it for each{remedy}")
    return found[0]


def image_parts(images: ImageInput, batch_size: int, channels: int = 3) -> Iterator[Tensor | list[Any]]:
    """Images so many at a time: parts of one tensor, or lists of single images.

    Args:
        images: tensor (B, 3, H, W) or array (B, H, W, 3), uint8 or floats from 0 to 1; one image or several, each as for
            `image_of_item`: PIL images, tensors, arrays, paths and encoded bytes.
        batch_size: images in a part, at least 1.
        channels: of the model's images, in the place of 3.

    Raises:
        InputError: something else than images, or a tensor of another shape or type.
    """
    in_range("batch_size", batch_size, 1, whole=True)
    if isinstance(images, Tensor) and is_packed(images):
        yield from torch.split(images, batch_size)
        return
    if isinstance(images, Tensor | np.ndarray) and images.ndim == 4:
        several = _several(images, channels)
        yield from torch.split(several, batch_size) if len(several) else ()
        return
    if isinstance(images, Tensor | np.ndarray | Image.Image | bytes | str | Path):
        yield [images]
        return
    if isinstance(images, Mapping) or not isinstance(images, Iterable):
        raise InputError(f"images of type {type(images).__name__} are no images: give PIL images, paths, or uint8 (B, 3, H, W)")
    waiting = iter(images)
    while part := list(islice(waiting, batch_size)):
        yield part


def pixel_batches(images: ImageInput, transform: nn.Module, size: int, batch_size: int, channels: int = 3) -> Iterator[Tensor]:
    """Images as uint8 (B, 3, size, size) in batches, or as packed patches (B, 1, 1, L, P + 5) where the transform makes them.

    Args:
        images: as for `image_parts`, of any size.
        transform: brings other sizes to `size`.
        size: side in pixels; tensors of that size are taken as they are.
        batch_size: the largest B, at least 1.
        channels: of the model's images, in the place of 3.

    Raises:
        InputError: as `image_parts`, or an image that cannot be read.
    """
    for part in image_parts(images, batch_size, channels):
        if isinstance(part, Tensor) and (is_packed(part) or makes_patches(transform)):
            yield part if is_packed(part) else stack_images([transform(image) for image in part])
            continue
        if isinstance(part, Tensor):
            yield part if part.shape[-2:] == (size, size) else transform(part)  # (B, 3, H, W) -> (B, 3, S, S)
            continue
        yield stack_images([_sized(image, transform, size) for image in part])


def makes_patches(transform: nn.Module) -> bool:
    """Whether a transform ends in packed patches, whose number differs from picture to picture."""
    return any(isinstance(step, ToPatches) for step in transform.modules())


def _sized(image: Any, transform: nn.Module, size: int) -> Tensor:
    """One image -> uint8 (3, size, size)."""
    pixels = picture_pixels(image, reading_of(transform))
    ready = isinstance(image, Tensor | np.ndarray) and pixels.shape[-2:] == (size, size) and not makes_patches(transform)
    sized: Tensor = pixels if ready else transform(pixels)
    return sized


def picture_pixels(image: Any, reading: PixelReading = CONVENTION) -> Tensor:
    """One image of any kind -> uint8 (3, H, W) of its own size.

    Args:
        image: a picture, pixels, bytes or a path.
        reading: what is shown of files with more than 8 bits or three bands.

    Raises:
        InputError: no image, or one that cannot be read.
    """
    if not isinstance(image, Tensor | np.ndarray | Image.Image | bytes | str | Path):
        raise InputError(f"image {str(image)[:60]!r} of type {type(image).__name__} is no image: give a PIL image or a path")
    name = repr(str(image)) if isinstance(image, str | Path) else f"of type {type(image).__name__}"
    try:
        return decode(image_of_item(existing_path(image, "image") if isinstance(image, str | Path) else image), reading)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"image {name} cannot be read: {error}. Give a JPEG, PNG, WebP, GIF, BMP or TIFF.") from error


def _several(values: Tensor | np.ndarray[Any, Any], channels: int) -> Tensor:
    """uint8 (B, 3, H, W) of a tensor of that shape or of an array (B, H, W, 3), as each library has them."""
    shape = tuple(values.shape)
    if isinstance(values, np.ndarray):
        last = values.shape[-1] == channels  # also where the second axis is 3: arrays have their colours last
        values = torch.from_numpy(np.require(np.moveaxis(values, -1, -3) if last else values, requirements=["C", "W"]))
    if values.shape[1] != channels:
        if values.shape[3] == channels:
            raise InputError(
                f"images of shape {shape} are (B, H, W, {channels}), with the colours last: give images.permute(0, 3, 1, 2)"
            )
        remedy = "convert them to RGB first" if channels == 3 else "give what the model's transform gives"
        raise InputError(f"images of shape {shape} have {values.shape[1]} channels, not {channels}: {remedy}")
    try:
        return as_uint8(values)
    except ValueError as error:
        raise InputError(f"images cannot be read: {error}. Give pixels of 0 to 255 as they were decoded") from error


def token_batches(
    tokens: Tensor, pad_id: int, batch_size: int, vocab_size: int, context_length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids int64 with their mask bool (B, L), in batches.

    Args:
        tokens: integers (N, L), padded on either side.
        pad_id: of padding; it may also occur inside a text.
        batch_size: the largest B, at least 1.
        vocab_size: ids count below it.
        context_length: the most ids of a text.

    Raises:
        InputError: another shape or type, ids out of range, or a text that is too long.
    """
    if tokens.ndim != 2 or tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        remedy = "give tokens[None] for one text" if tokens.ndim == 1 else "give what the tokenizer returns, or strings"
        raise InputError(f"token ids must be integers (B, L), got {tokens.dtype} {tuple(tokens.shape)}: {remedy}")
    if not len(tokens):
        return
    if not tokens.shape[1]:
        raise InputError(f"token ids {tuple(tokens.shape)} hold nothing: give what the tokenizer returns, or strings")
    low, high = tokens.amin(), tokens.amax()
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token id {int(low if low < 0 else high)} is out of range: the text tower embeds ids 0 to {vocab_size - 1}. Are "
            "these ids of another tokenizer?"
        )
    for part in torch.split(tokens.long(), batch_size):
        rows, mask = right_padded(part, pad_id)  # (B, L)
        if (longest := int(mask.sum(dim=1).amax())) > context_length:
            raise InputError(
                f"a text of {longest} token ids is longer than the context_length {context_length}: cut it, and keep "
                "its end token"
            )
        width = max(longest, 1)
        yield rows[:, :width], mask[:, :width]


def text_list(texts: Any) -> list[str] | Tensor:
    """Texts as a list of strings, or token ids as a tensor.

    Args:
        texts: one string, strings in a list, a generator or an array, or token ids as a tensor or an array.

    Raises:
        InputError: something else.
    """
    if isinstance(texts, str | Tensor):
        return [texts] if isinstance(texts, str) else texts
    if isinstance(texts, np.ndarray):
        if texts.dtype.kind in "iufb":
            return torch.from_numpy(np.ascontiguousarray(texts))
        texts = texts.tolist()
    if isinstance(texts, Mapping | bytes) or not isinstance(texts, Iterable):
        raise InputError(f"texts {str(texts)[:60]!r} of type {type(texts).__name__} are no texts: give ['a dog', 'a cat']")
    found = list(texts)
    if found and all(isinstance(text, Tensor) for text in found):
        raise InputError("texts is a list of tensors: give token ids as one tensor (B, L), torch.stack(rows), or strings")
    return list(checked(found))


def joined(parts: Iterable[Tensor], width: int, device: torch.device) -> Tensor:
    """Rows of all parts (B, width); of none (0, width).

    Args:
        parts: (B_i, width).
        width: of a row.
        device: where there are none.
    """
    found = list(parts)
    return torch.cat(found) if found else torch.empty(0, width, device=device)


def encode_texts(
    texts: Sequence[str], tokenizer: Tokenizer, batch_size: int, encode: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Features (B, D) in the order of the texts: each distinct one once, among others of its length and cut to it.

    Args:
        texts: strings, at least one, or the caller has nothing to put together.
        tokenizer: of the text tower.
        batch_size: texts encoded at a time, at least 1.
        encode: tokens int64 (B, L) and mask bool (B, L) -> features (B, D).
    """
    distinct = list(dict.fromkeys(texts))
    rows = dict(zip(distinct, tokenizer.encode(distinct), strict=True))
    order = sorted(distinct, key=lambda text: len(rows[text]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    features = torch.cat([encode(*tokenizer.padded([rows[text] for text in batch])) for batch in batches])
    place = {text: number for number, text in enumerate(order)}
    return features[torch.tensor([place[text] for text in texts], device=features.device)]
