"""`OfClasses`: a labelled source with its labels counted as another one counts its classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.sources import PairSource, Subset

__all__ = ["OfClasses"]

log = logging.getLogger(__name__)


class OfClasses(Subset):
    """The samples of a source whose class is among some names, with labels that count these.

    A training split may lack classes of the test split, or have others: each counts its own classes from 0 otherwise.

    Args:
        source: with labels and class names of its own.
        class_names: the classes that count.
        name: of the split, for messages.

    Raises:
        InputError: a stream, or no sample of any of the classes.
    """

    def __init__(self, source: PairSource, class_names: Sequence[str], name: str) -> None:
        if not source.random_access:
            raise InputError(f"the {name} split is a stream with other classes than the set: put it into shards on a disk")
        wanted = {word: number for number, word in enumerate(class_names)}
        numbers = [wanted.get(word) for word in source.class_names]
        own = [source.label(index) for index in range(len(source))]
        found = [None if label is None else numbers[label] for label in own]
        super().__init__(source, [index for index, label in enumerate(found) if label is not None])
        if not len(self):
            raise InputError(
                f"no sample of the {name} split is of a class of the set ({', '.join(class_names[:3])}, ...): its classes are "
                f"{', '.join(source.class_names[:3])}, ..."
            )
        if others := len(source) - len(self):
            log.warning(
                "%d of %d samples of the %s split are of classes that the set lacks: omitted", others, len(source), name
            )
        self.class_names, self._numbers = list(class_names), numbers

    def __getitem__(self, index: int) -> Pair:
        pair = super().__getitem__(index)
        assert isinstance(pair.label, int)
        return replace(pair, label=self._numbers[pair.label])

    def label(self, index: int) -> int | None:
        found = super().label(index)
        return None if found is None else self._numbers[found]
