"""Splits by a value: which part a patient, a place or a file belongs to, by a hash of its name alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, in_range, mapping

__all__ = ["PARTS", "Split", "SplitCounts", "check_part", "parts_of"]

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """How pairs are divided into training, validation and test, so that what shares a value stays together.

    The part depends on the value and the seed alone: rows that are added or removed move no other, and with another `val` the
    test part stays as it is.

    Args:
        by: column whose value decides, such as the patient or the place; of files a regular expression whose group, or whole
            match, decides. None takes the image itself.
        test: share of the values in the test part, in [0, 1).
        val: share in the validation part.
        seed: another one gives another division.
        part: "train", "val" or "test"; None is for `ClipDataModule`, which fills it in. Elsewhere it stands for everything.

    Raises:
        InputError: shares that leave nothing for training, or an unknown part.

    Examples:
        >>> split = Split(by="patient", test=0.5)
        >>> split.part_of("patient 7"), split.part_of("patient 7")
        ('train', 'train')
    """

    by: str | None = None
    test: float = 0.0
    val: float = 0.0
    seed: int = 0
    part: str | None = None

    def __post_init__(self) -> None:
        for name in ("test", "val"):
            in_range(f"split.{name}", getattr(self, name), 0, 1, open_high=True)
        if self.test + self.val >= 1:
            raise InputError(f"split: test {self.test:g} and val {self.val:g} leave nothing for training: give shares below 1")
        if self.part is not None and self.part not in PARTS:
            raise InputError(f"split.part {self.part!r} is unknown: {nearest(self.part, PARTS)}")

    @classmethod
    def of(cls, value: Split | Mapping[str, Any]) -> Split:
        """Settings from a mapping."""
        return value if isinstance(value, cls) else built(cls, mapping(value, "split"), "split")

    def part_of(self, value: str) -> str:
        """The part of everything that has this value.

        Args:
            value: of the column, as text.
        """
        digest = blake2b(f"{self.seed}\0{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64  # uniform in [0, 1)
        return "test" if place < self.test else "val" if place < self.test + self.val else "train"


@dataclass(frozen=True)
class SplitCounts:
    """What a split comes to.

    Attributes:
        samples: part -> number of pairs.
        values: part -> number of different values.
    """

    samples: Mapping[str, int]
    values: Mapping[str, int]

    def described(self, split: Split) -> str:
        """One line, such as "split by patient: train 1,204 pairs of 80 values, ..."."""
        shown = ", ".join(f"{part} {self.samples[part]:,} pairs of {self.values[part]:,} values" for part in PARTS)
        return f"split by {split.by or 'image'}: {shown}" + (f"; this is {split.part}" if split.part else "")


def parts_of(split: Split, values: Sequence[str], source: str) -> tuple[np.ndarray, SplitCounts]:
    """Which part each sample belongs to, as uint8 numbers of `PARTS` (N,), and how many there are.

    Args:
        split: the settings.
        values: one per sample (N,).
        source: its name, for the error.

    Raises:
        InputError: the part that is asked for is empty.
    """
    part_of_value = {value: PARTS.index(split.part_of(value)) for value in dict.fromkeys(values)}
    numbers = np.fromiter((part_of_value[value] for value in values), dtype=np.uint8, count=len(values))
    samples = np.bincount(numbers, minlength=len(PARTS)).tolist()
    different = np.bincount(list(part_of_value.values()), minlength=len(PARTS)).tolist()
    counts = SplitCounts(dict(zip(PARTS, samples, strict=True)), dict(zip(PARTS, different, strict=True)))
    check_part(split, counts, source)
    return numbers, counts


def check_part(split: Split, counts: SplitCounts, source: str) -> None:
    """Refuses an empty part.

    Raises:
        InputError: the part that is asked for is empty.
    """
    if split.part is not None and not counts.samples[split.part]:
        raise InputError(
            f"split of {source!r}: part {split.part!r} is empty, of {sum(counts.values.values())} values of "
            f"{split.by or 'image'!r} none falls into it: raise its share, change the seed, or split by what has more values"
        )
