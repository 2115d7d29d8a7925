"""Class names of labelled data: what a run's splits say of them, and whether they mean the classes that are learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import PairBatch
from lightning_clip.data.sources import PairSource

__all__ = ["check_labels", "check_split", "names_in", "no_class", "source_of"]


def source_of(data: Any | None, split: str) -> PairSource | None:
    """The opened source of a split of a data module, where there is one.

    Args:
        data: a `ClipDataModule`, a data module of the user's own, or None.
        split: "train", "val" or "test".
    """
    known = hasattr(data, "source") and getattr(data, "_specs", {"train": "of the user's own class"}).get(split) is not None
    return data.source(split) if known and data is not None else None


def names_in(data: Any | None, split: str) -> list[str]:
    """Class names in the order of a split's labels; empty where the data does not know them."""
    return list(getattr(source_of(data, split), "class_names", []))


def check_split(data: Any | None, split: str, learned: Sequence[str]) -> None:
    """Refuses a split whose labels stand for other classes than those that are learned, as far as the data knows them.

    Raises:
        InputError: another number or order of classes.
    """
    found, trained = names_in(data, split), names_in(data, "train")
    if split != "train" and trained:
        known, fits = trained, found == trained
    else:  # other words for the classes are the user's right; another number, or another order of the same words, is not
        known = list(learned)
        fits = len(found) == len(known) and (found == known or sorted(found) != sorted(known))
    if found and not fits:
        raise InputError(
            f"the labels of the {split} data stand for {_listed(found)}, but {_listed(known)} are learned: give all splits the "
            "same classes, and class_names in the order of the labels, or omit them"
        )


def check_labels(batch: PairBatch, learned: Sequence[str]) -> None:
    """Refuses images without a label among the classes; on an accelerator only the loss does, so as not to wait for it.

    Raises:
        InputError: the first such image of the batch.
    """
    label: Tensor = batch.label
    if label.device.type != "cpu":
        return
    wrong = ((label < 0) | (label >= len(learned))).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise no_class(batch.keys[row], int(label[row]), learned)


def no_class(key: str, label: int | None, learned: Sequence[str]) -> InputError:
    """That the label of an image is of none of the classes."""
    has = "no label" if label is None or label < 0 else f"label {label}"
    return InputError(
        f"image {key!r} has {has}, but {len(learned)} classes are learned: give a table's label_column, one folder per class, "
        "or shards with .cls members"
    )


def _listed(names: Sequence[str]) -> str:
    """How many classes, and the first of them."""
    return f"{len(names)} classes ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''})"
