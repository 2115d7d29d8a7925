"""The filter seam: a verdict on each pair."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.registry import Registry
from lightning_clip.data.decoding import decode

__all__ = ["Filter", "Looked", "pair_filters"]


@dataclass
class Looked:
    """A pair that is looked at.

    Attributes:
        captions: its texts, at least one.
        image: encoded bytes or uint8 pixels (3, H, W); `pixels` decodes it once.
        metadata: what else the source knows.
        score: what the filter `score` found, if it ran.
    """

    captions: tuple[str, ...]
    image: bytes | Tensor
    metadata: Mapping[str, Any]
    score: float | None = None
    _pixels: Tensor | None = None

    @property
    def pixels(self) -> Tensor:
        """uint8 (3, H, W); raises ValueError if the image is broken."""
        if self._pixels is None:
            self._pixels = decode(self.image)
        return self._pixels

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]


class Filter(ABC):
    """Passes or rejects pairs, each by itself: a verdict may not depend on what else is in the batch, nor on chance.

    Attributes:
        reason: of a drop, as it reads in the report.
        needs_pixels: False where the captions or metadata tell; the image is then not decoded for it.

    Examples:
        >>> class NoShouting(Filter):
        ...     reason, needs_pixels = "caption in capitals", False
        ...
        ...     def passes(self, samples):
        ...         return [not all(text.isupper() for text in sample.captions) for sample in samples]
        >>> NoShouting().passes([Looked(("BUY NOW",), b"", {}), Looked(("a dog",), b"", {})])
        [False, True]
    """

    reason: str
    needs_pixels: bool = True

    @abstractmethod
    def passes(self, samples: Sequence[Looked]) -> list[bool]:
        """Whether each sample stays."""


def _by_path(name: str) -> Callable[..., Any] | None:
    """`my_package.my_module.MyFilter`, so that a filter of the user's needs no registration; nothing is imported for it."""
    module, dot, attribute = name.rpartition(".")
    if not dot:
        return None
    if module not in sys.modules:
        raise InputError(
            f"filter {name!r} is of a module that is not imported: add --import {module} (in Python: import it first)"
        )
    found = getattr(sys.modules[module], attribute, None)
    if not (isinstance(found, type) and issubclass(found, Filter)):
        raise InputError(f"filter {name!r} is no subclass of Filter: name one, or one of {', '.join(pair_filters.names())}")
    return found


pair_filters: Registry[Filter] = Registry("filter", fallback=_by_path)
