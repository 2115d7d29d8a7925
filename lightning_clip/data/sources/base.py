"""The seam between what a user has and pairs: `PairSource`, and what a path, a mapping or a name opens."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.registry import Registry
from lightning_clip.core.types import Pair
from lightning_clip.data.order import Order, Shuffled
from lightning_clip.data.shards.addresses import is_url, shown, without_scheme

__all__ = ["PairSource", "Subset", "pair_sources", "readable_captions", "recognises"]

log = logging.getLogger(__name__)
Factory = Callable[..., "PairSource"]
Recogniser = Callable[[str], Factory | None]


class PairSource(ABC):
    """A map-style source of pairs: `len(source)` and `source[i] -> Pair`.

    Attributes:
        random_access: False for streams, which serve training alone.
        class_names: of labelled sources that know them, in the order of the labels.
        layout: what the source was read as, in a few words; empty where the name says it.
    """

    random_access: bool = True
    class_names: Sequence[str] = ()
    layout: str = ""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Pair: ...

    def captions(self, index: int) -> tuple[str, ...]:
        """Only the texts of a pair; sources override this where it saves reading the image."""
        return self[index].captions

    def label(self, index: int) -> int | None:
        """Only the class of a pair; sources override this where it saves reading the image."""
        return self[index].label

    def place(self, index: int) -> str:
        """Where a pair stands, for people who look for it: a file and line, a shard and key, or its number."""
        return f"sample {index}"

    def visited(self, epoch: int, index: int) -> Pair:
        """The pair for a visit; the epoch matters to sources that can only be read forward."""
        return self[index]

    def order(self, seed: int) -> Order:
        """The order of training; a permutation of all samples unless the source knows a cheaper way to be read."""
        return Shuffled(len(self), seed)

    def lost(self) -> Mapping[str, int]:
        """Reason -> samples of which is known, before any is read, that they cannot be; for sources far away."""
        return {}

    def first_of_parts(self) -> Sequence[int]:
        """Places of samples that show which columns there are: the first, or the first of each part of a mix."""
        return [0] if len(self) else []

    def fetch(self, shards: list[int]) -> None:  # noqa: B027  (most sources are near)
        """Told which shards the order needs next, as `Order.upcoming` names them; for sources far away."""


def readable_captions(source: PairSource, index: int) -> tuple[str, ...]:
    """The captions of a pair, none where they cannot be read: for counting and learning words, which one fault must not end."""
    try:
        return source.captions(index)
    except (OSError, ValueError, KeyError):
        return ()


_recognisers: list[tuple[int, Recogniser]] = []


def recognises(rank: int) -> Callable[[Recogniser], Recogniser]:
    """Decorates a function that says which source a path, pattern or URL names, or None; lower ranks are asked first.

    A rank below 100 is for what a name alone tells, above for what needs a look at files.
    """

    def decorate(recogniser: Recogniser) -> Recogniser:
        _recognisers.append((rank, recogniser))
        return recogniser

    return decorate


def _source_of_path(name: str) -> Factory:
    name = without_scheme(name)
    for _, recogniser in sorted(_recognisers, key=lambda entry: entry[0]):
        if (factory := recogniser(name)) is not None:
            return factory
    if is_url(name):
        raise InputError(
            f"{shown(name)!r} is no address of shards: give theirs, such as https://HOST/{{000..099}}.tar, or copy the data to "
            "this machine"
        )
    known = ", ".join(pair_sources.names())
    existing_path(name, f"data (neither a known source, {known}, nor one of a module that --import names, nor a path)")
    raise InputError(
        f"{name!r} holds nothing that is known as pairs (shards, a captions table, one folder per class): "
        "give the table's or the shards' own path, or a mapping with 'name'"
    )


class _Sources(Registry[PairSource]):
    """Data sources by name; what has no such name, or is no use without settings, is a path."""

    def build(self, spec: Any, **defaults: Any) -> PairSource:
        settings = {"name": spec} if isinstance(spec, str) else spec
        name = settings.get("name") if isinstance(settings, Mapping) else None
        if isinstance(name, str) and name in self.names() and Path(name).exists():
            if self.missing(name, settings.keys() | defaults.keys()):  # a folder called "shards": the source needs a path
                spec = {**settings, "name": f".{os.sep}{name}"}
            else:
                log.warning("data %r is the source of that name; for the folder or file write './%s'", name, name)
        return super().build(spec, **defaults)


pair_sources: Registry[PairSource] = _Sources("data source", fallback=_source_of_path)


class Subset(PairSource):
    """Some samples of another source, in the order given.

    Args:
        source: any pair source.
        indices: places in `source`.

    Examples:
        >>> from lightning_clip.data import SyntheticScenes
        >>> few = Subset(SyntheticScenes(size=10), [3, 5])
        >>> len(few), few[1].key
        (2, 'train/00000005')
    """

    def __init__(self, source: PairSource, indices: Sequence[int] | np.ndarray) -> None:
        # An array: workers that touch Python integers would copy their pages.
        self.source, self.indices = source, np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Pair:
        return self.source[int(self.indices[index])]

    def captions(self, index: int) -> tuple[str, ...]:
        return self.source.captions(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        return self.source.label(int(self.indices[index]))

    def place(self, index: int) -> str:
        return self.source.place(int(self.indices[index]))
