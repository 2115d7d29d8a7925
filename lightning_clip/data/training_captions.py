"""Captions of a run's training data, read without images, for what is made of them before the first step."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from lightning_clip.core.types import Pair
from lightning_clip.data.captions import first_caption, random_caption
from lightning_clip.data.sources import PairSource, readable_captions

__all__ = ["training_captions"]


def training_captions(data: Any | None, most: int = 1_000_000) -> Iterator[tuple[str, ...]]:
    """The captions of each training sample as training shows them, read without images; none where there is no training data.

    Where a caption is made of the class name, as by "template", it is made here, too.

    Args:
        data: a data module with `source`, or None.
        most: samples that are read, at even distances; at least 1.
    """
    if not hasattr(data, "source") or getattr(data, "_specs", {"train": 1}).get("train") is None or data is None:
        return
    source: PairSource = data.source("train")
    if not source.random_access:
        return
    choose = getattr(data, "captions", None)
    plain = choose in (None, random_caption, first_caption)
    for index in range(0, len(source), -(-len(source) // most)):
        captions = readable_captions(source, index)
        if plain:
            yield captions
            continue
        label = source.label(index)
        name = {} if label is None or not source.class_names else {"class_name": source.class_names[label]}
        try:
            yield (choose(Pair(b"", captions, str(index), label, metadata=name), random.Random(index)),)  # type: ignore[misc]
        except (KeyError, IndexError, ValueError):
            continue  # the run counts it as a bad sample
