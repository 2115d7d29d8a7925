"""Any map-style Dataset as a source of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import IterableDataset

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.items import pair_of_item
from lightning_clip.data.sources.base import PairSource

__all__ = ["DatasetSource", "as_source"]


class DatasetSource(PairSource):
    """A torch Dataset, a Hugging Face dataset, a list: whatever has a length and items that are images with texts.

    Args:
        dataset: its items are what `pair_of_item` takes; `classes` or `class_names` of it are kept.

    Raises:
        InputError: a first item of another form.

    Examples:
        >>> import torch
        >>> DatasetSource([(torch.zeros(3, 8, 8, dtype=torch.uint8), "a dark square")])[0].captions
        ('a dark square',)
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        names = getattr(dataset, "class_names", None) or getattr(dataset, "classes", None) or ()
        self.class_names: Sequence[str] = [str(name) for name in names] if isinstance(names, list | tuple) else ()
        self.layout = f"a {type(dataset).__name__} of {len(dataset):,} items"

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Pair:
        return pair_of_item(self.dataset[index], str(index))


def as_source(given: Any) -> Any:
    """A source of whatever has a length and items.

    Args:
        given: a `PairSource`, or a Dataset.

    Raises:
        InputError: neither, or a Dataset that can only be read forward.
    """
    if isinstance(given, PairSource):
        return given
    if isinstance(given, IterableDataset) or not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise InputError(
            f"data {type(given).__name__} has no length or no items: give a path, a mapping, a PairSource, or a Dataset with "
            "__len__ and __getitem__"
        )
    return DatasetSource(given)
