"""Plain DataLoaders before a `ClipModule`: their items and batches become what the module reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.core.types import Pair, PairBatch, Skipped
from lightning_clip.data.batches import PairCollator, PreparedPair, PreparedPairs
from lightning_clip.data.captions import ChooseCaption
from lightning_clip.data.columns import Collate
from lightning_clip.data.items import pair_of_item
from lightning_clip.data.sampler import Visit
from lightning_clip.data.sources.dataset import DatasetSource
from lightning_clip.data.tokenizers import Tokenizer

__all__ = ["Items", "adopt", "batch_of_items"]


class Items:
    """Items of a Dataset -> a `PairBatch`, in the place of a DataLoader's `collate_fn`.

    Args:
        transform: uint8 (3, H, W) -> uint8 (3, S, S).
        choose_caption: pair and random generator -> one text.
        tokenizer: of the text tower; None where no tower reads texts.
        columns: what the towers read, with the functions that collate further columns.
    """

    def __init__(
        self,
        transform: nn.Module,
        choose_caption: ChooseCaption,
        tokenizer: Tokenizer | None,
        columns: Mapping[str, Collate | None],
    ) -> None:
        self.transform, self.choose_caption, self.columns = transform, choose_caption, dict(columns)
        further = {name: collate for name, collate in columns.items() if name not in ("image", "text")}
        text = "text" in columns
        self.collate = PairCollator(tokenizer if text else None, further, "image" in columns, text)

    def __call__(self, items: Sequence[Any]) -> PairBatch:
        pairs: list[Pair | Skipped] = []
        for number, item in enumerate(items):
            try:
                pairs.append(pair_of_item(item, str(number)))
            except InputError:
                raise
            except (OSError, ValueError) as error:
                pairs.append(Skipped(str(number), reason_of(error)))
        good = [pair for pair in pairs if isinstance(pair, Pair)]
        # Drawn from torch's generator, which a loader seeds in its workers: crops and captions of a plain loader are its own.
        seed = int(torch.randint(1 << 31, (1,)))
        prepared = PreparedPairs(DatasetSource(good), self.transform, self.choose_caption, seed, columns=tuple(self.columns))
        samples: list[PreparedPair | Skipped] = prepared.__getitems__([Visit(0, number) for number in range(len(good))])
        batch = self.collate([*samples, *(pair for pair in pairs if isinstance(pair, Skipped))])
        if not batch.size:
            raise InputError(f"no item of a batch can be used ({batch.skipped[-1].reason}): look at the Dataset's items")
        return batch


def adopt(loaders: Any, items: Items) -> None:
    """Lets plain DataLoaders hand out what the module reads, before they are begun.

    Args:
        loaders: one DataLoader, or a list or mapping of them. What a `collate_fn` of one's own makes is read by
            `batch_of_items`.
        items: makes batches.
    """
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
        if not isinstance(loader, DataLoader) or isinstance(loader.collate_fn, PairCollator):
            continue
        own = (
            loader.collate_fn.collate_fn if isinstance(loader.collate_fn, _OwnBatches) else loader.collate_fn
        )  # of a run before
        loader.collate_fn = items if own is default_collate or isinstance(own, Items) else _OwnBatches(own, items)


class _OwnBatches:
    """What a user's `collate_fn` makes, as a `PairBatch`."""

    def __init__(self, collate_fn: Callable[[list[Any]], Any], items: Items) -> None:
        self.collate_fn, self.items = collate_fn, items

    def __call__(self, items: list[Any]) -> PairBatch:
        return batch_of_items(self.collate_fn(items), self.items)


def batch_of_items(batch: Any, items: Items) -> PairBatch:
    """The batch of a loader with a `collate_fn` of its own: images and texts as tuple or mapping, each a sequence or tensor.

    Args:
        batch: (images (B, 3, H, W) or B images, B texts), or a mapping with such fields.
        items: makes batches.

    Raises:
        InputError: a batch of another form.
    """
    if isinstance(batch, PairBatch):
        return batch
    if isinstance(batch, Mapping):
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*map(_rows, batch.values()), strict=True)]
        return items(rows)
    if isinstance(batch, tuple | list) and len(batch) == 2:
        images, texts = map(_rows, batch)
        if len(images) == len(texts):
            return items(list(zip(images, texts, strict=True)))
        if texts and all(isinstance(row, tuple | list) and len(row) == len(images) for row in texts):
            return items(list(zip(images, map(list, zip(*texts, strict=True)), strict=True)))  # as torch collates lists
    form = f"({', '.join(type(part).__name__ for part in batch)})" if isinstance(batch, tuple | list) else type(batch).__name__
    raise InputError(
        f"a batch of the loader is {form}: it must be a PairBatch, (images, texts) or a mapping with image and caption; "
        "without a collate_fn of its own the module collates the loader's items itself"
    )


def _rows(values: Any) -> list[Any]:
    if isinstance(values, Tensor):
        return list(values.cpu())
    return [values] if isinstance(values, str | bytes | Image.Image) else list(values)
