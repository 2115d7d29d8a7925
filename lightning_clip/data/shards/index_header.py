"""The header of a shard's index: counts that are checked before anything is read by them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["IndexHeader", "checksum_of"]


@dataclass(frozen=True)
class IndexHeader:
    """What an index says of its archive.

    Attributes:
        size, modified: bytes and modification time (ns) of the archive when it was indexed.
        samples: samples that can be used, see `missing_part`.
        members: files of the archive.
        dropped: reason -> samples that cannot be used.
        fault: why the archive ends early, or None; what stands before the fault is indexed.
        checksum: CRC-32 of the records and names.
    """

    size: int
    modified: int
    samples: int
    members: int
    dropped: dict[str, int] = field(default_factory=dict)
    fault: str | None = None
    checksum: int = 0

    def __post_init__(self) -> None:
        counts = (self.size, self.modified, self.samples, self.members, self.checksum)
        if not all(type(count) is int and 0 <= count < 1 << 63 for count in counts):
            raise ValueError(f"an index has counts of other kinds: {counts}")
        if not isinstance(self.dropped, dict) or not isinstance(self.fault, str | None):
            raise ValueError("an index has a fault or reasons of other kinds")


def checksum_of(path: str | Path, begin: int) -> int:
    """CRC-32 of a file's bytes from `begin` on."""
    found = 0
    with Path(path).open("rb") as stream:
        stream.seek(begin)
        while block := stream.read(1 << 20):
            found = zlib.crc32(block, found)
    return found
