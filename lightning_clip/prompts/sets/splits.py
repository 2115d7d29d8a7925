"""Training and test splits of sets that come in one piece, the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["drawn", "labels_in_order"]


def labels_in_order(dataset: Any, attribute: str) -> list[int]:
    """Labels of a set in one piece, (N,); SUN397 lists its files as the file system gives them, so they are sorted first.

    Args:
        dataset: of torchvision.
        attribute: its list of labels.
    """
    if (files := getattr(dataset, "_image_files", None)) is not None:
        order = sorted(range(len(files)), key=lambda place: str(files[place]))
        dataset._image_files = [files[place] for place in order]
        setattr(dataset, attribute, [getattr(dataset, attribute)[place] for place in order])
    return list(getattr(dataset, attribute))


def drawn(labels: Sequence[int], train_share: float) -> dict[str, np.ndarray]:
    """Places for training and for the test, drawn class by class, the same on every machine.

    Args:
        labels: (N,).
        train_share: part of each class for training if below 1, otherwise how many images of it, but never all.

    Returns:
        "train" and "test" -> places, rising; together all of them.
    """
    given, rng = np.asarray(labels), np.random.RandomState(0)  # RandomState: its stream is frozen for good
    train = np.zeros(len(given), dtype=bool)
    for label in np.unique(given):
        places = rng.permutation(np.flatnonzero(given == label))
        count = round(len(places) * train_share) if train_share < 1 else int(train_share)
        train[places[: min(count, len(places) - 1)]] = True
    return {"train": np.flatnonzero(train), "test": np.flatnonzero(~train)}
