"""Verification of a source: each sample that cannot be used, with its place and the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning_clip.core.errors import reason_of
from lightning_clip.data.decoding import ONE_TONE, decode, is_one_tone
from lightning_clip.data.parallel import over_ranges
from lightning_clip.data.sources.base import PairSource
from lightning_clip.data.sources.shards import ShardSource

__all__ = ["Fault", "Verification", "verify_pairs"]


class Fault(NamedTuple):
    """What cannot be used, and why.

    Attributes:
        place: "line 17 of captions.csv", "sample 17 of train-000000.tar", a file's path, or a shard's.
        key: the sample's name, if it could be read.
        reason: in a few words.
    """

    place: str
    key: str
    reason: str


@dataclass
class Verification:
    """What was found.

    Attributes:
        pairs: samples that were read and decoded.
        faults: all that cannot be used.
        findings: what can be used and should be looked at: images of nearly one tone.
    """

    pairs: int = 0
    faults: list[Fault] = field(default_factory=list)
    findings: list[Fault] = field(default_factory=list)

    @property
    def reasons(self) -> Counter[str]:
        """Reason -> count."""
        return Counter(fault.reason for fault in self.faults)


def verify_pairs(source: PairSource, workers: int = 1) -> Verification:
    """Reads every pair and decodes every image and column.

    Finds images and columns that do not decode, captions that are missing or no text, keys that occur twice, and for shards
    those that are cut off and samples without an image or a text.

    Args:
        source: any pair source.
        workers: processes that read.
    """
    result = Verification(pairs=len(source), faults=list(_shard_faults(source)))
    keys: Counter[str] = Counter()

    def check(number: int, start: int, stop: int) -> list[tuple[str, Fault | None]]:
        return [_check(source, index) for index in range(start, stop)]

    for _, found in over_ranges(check, len(source), 200, workers, "verifying"):
        for key, fault in found:
            if key:
                keys[key] += 1
                if keys[key] == 2:
                    result.faults.append(Fault("several samples", key, "key occurs more than once"))
            if fault is not None:
                (result.findings if fault.reason == ONE_TONE else result.faults).append(fault)
    return result


def _check(source: PairSource, index: int) -> tuple[str, Fault | None]:
    key, one_tone = "", False
    try:
        pair = source[index]
        key = pair.key
        columns = dict(pair.columns)  # decodes those that are files
        if pair.image is not None or not columns:
            one_tone = is_one_tone(decode(pair.image))
    except (OSError, ValueError, KeyError) as error:
        return key, Fault(source.place(index), key, reason_of(error))
    if not pair.captions and pair.label is None and not columns:
        return key, Fault(source.place(index), key, "no caption")
    return key, Fault(source.place(index), key, ONE_TONE) if one_tone else None


def _shard_faults(source: PairSource) -> Iterator[Fault]:
    if not isinstance(source, ShardSource):
        return
    for path, header in source.shards.headers():
        if header.fault:
            yield Fault(path, "", f"shard is {header.fault}")
        for reason, count in header.dropped.items():
            yield Fault(path, "", f"{count} samples with {reason}")
