"""What plain Datasets hand out -> `Pair`: tuples and mappings of images and texts in any of the usual forms."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.decoding import from_pil
from lightning_clip.data.sources.columns import texts

__all__ = ["as_uint8", "image_of_item", "pair_of_item"]

_IMAGE = ("image", "img", "pixel_values", "picture", "photo", "image_path", "filepath", "file_name")
_TEXT = ("caption", "captions", "text", "texts", "sentence", "sentences", "title", "description")
_LABEL = ("label", "labels", "class", "target")


def pair_of_item(item: Any, key: str) -> Pair:
    """A `Pair` of an item.

    Args:
        item: a `Pair`, (image, text), (image, [texts]), (image, class number), or a mapping with such fields by their usual
            names, in which other fields are further columns. The image is what `image_of_item` takes.
        key: a name for it.

    Raises:
        ValueError: an image that is no image.
        InputError: an item of another form.

    Examples:
        >>> import torch
        >>> pair_of_item((torch.zeros(3, 4, 4, dtype=torch.uint8), ["a dog", "a pet"]), "0").captions
        ('a dog', 'a pet')
    """
    if isinstance(item, Pair):
        return item
    if isinstance(item, Mapping):
        return _of_mapping(item, key)
    if isinstance(item, tuple | list) and len(item) == 2:
        image, text = item
        if isinstance(text, str) or (isinstance(text, list | tuple) and all(isinstance(one, str) for one in text)):
            return Pair(image_of_item(image), texts(text), key)
        if (label := _label(text)) is not None:
            return Pair(image_of_item(image), (), key, label)
    form = f"({', '.join(type(part).__name__ for part in item)})" if isinstance(item, tuple | list) else type(item).__name__
    raise InputError(
        f"an item of the data set is {form}: it must be a Pair, (image, text), (image, [texts]), (image, class number), or a "
        "mapping with image and caption"
    )


def image_of_item(image: Any) -> bytes | Tensor:
    """Encoded bytes, or pixels uint8 (3, H, W), of an image in any of the usual forms.

    Args:
        image: a PIL image, bytes, a path, or an array or tensor (3, H, W), (H, W, 3), (1, H, W) or (H, W), uint8, or floats
            from 0 to 1.

    Raises:
        ValueError: something else; values outside of the range, as normalised ones are.
    """
    if isinstance(image, Image.Image):
        return from_pil(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray | np.generic | Tensor):
        return _pixels(image)
    raise ValueError(f"image is {type(image).__name__}, not a picture, bytes, a path or pixels")


def as_uint8(values: Tensor) -> Tensor:
    """Pixels of 0 to 255, or floats of 0 to 1, as uint8 of the same shape.

    Args:
        values: of any shape.

    Raises:
        ValueError: values outside of these ranges, as normalised ones are.

    Examples:
        >>> as_uint8(torch.tensor([0.0, 0.5, 1.0])).tolist()
        [0, 128, 255]
    """
    if values.dtype == torch.uint8 or not values.numel():
        return values.to(torch.uint8)
    if values.is_floating_point():
        if not bool(values.isfinite().all()) or values.min() < 0 or values.max() > 1:
            raise ValueError("image has floats outside of 0 to 1: the model normalises pixels itself")
        return (255 * values).round().to(torch.uint8)
    if values.min() < 0 or values.max() > 255:
        raise ValueError("image has integers outside of 0 to 255")
    return values.to(torch.uint8)


def _pixels(image: Any) -> Tensor:
    """uint8 (3, H, W) of one image as tensor or array; arrays have their colours last, also where the first axis is 3."""
    values = image if isinstance(image, Tensor) else torch.from_numpy(np.require(image, requirements=["C", "W"]))
    last = values.ndim == 3 and values.shape[2] in (1, 3) and (values is not image or values.shape[0] not in (1, 3))
    if last:
        values = values.permute(2, 0, 1)  # (H, W, C) -> (C, H, W)
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ValueError(f"image has the shape {tuple(values.shape)}, not (3, H, W) or (H, W, 3)")
    return as_uint8(values).expand(3, -1, -1).contiguous()


def _of_mapping(item: Mapping[str, Any], key: str) -> Pair:
    image, text, label = (next((name for name in names if name in item), None) for names in (_IMAGE, _TEXT, _LABEL))
    if image is None and text is None:
        raise InputError(
            f"an item of the data set is a mapping of {', '.join(map(str, item))}: name its fields image and caption"
        )
    own = None if label is None else _label(item[label])
    used = {image, text} | ({label} if own is not None else set())
    columns = {str(name): value for name, value in item.items() if name not in used and value is not None and name != "key"}
    captions = () if text is None else texts(item[text], text)
    found = None if image is None else image_of_item(item[image])
    return Pair(found, captions, str(item.get("key", key)), own, columns=columns)


def _label(value: Any) -> int | None:
    """A class number, None for anything else."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else None
