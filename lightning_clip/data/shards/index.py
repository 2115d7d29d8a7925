"""The index of a tar archive: a small file of fixed-size records, read in place and never held.

Twenty million samples in two thousand shards then cost a worker nothing but two short reads a sample.
"""

from __future__ import annotations

import json
import os
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError
from lightning_clip.data.column_files import column_name
from lightning_clip.data.hidden import is_hidden
from lightning_clip.data.shards.files import open_files
from lightning_clip.data.shards.index_header import IndexHeader, checksum_of

__all__ = [
    "IMAGE_EXTENSIONS",
    "TEXT_EXTENSIONS",
    "IndexHeader",
    "Member",
    "TarIndex",
    "build_index",
    "lowered",
    "missing_part",
    "split_name",
]

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "dcm", "dicom")
TEXT_EXTENSIONS = ("txt", "json", "cls")
_MAGIC = b"lightning_clip tar index 4\n"
_HEADER = 1024  # bytes before the records
_SAMPLE = np.dtype([("first", "<u4"), ("members", "<u4")])
_MEMBER = np.dtype([("offset", "<u8"), ("size", "<u8"), ("name_start", "<u8"), ("name_end", "<u8")])


@dataclass(frozen=True)
class Member:
    """A file inside an archive."""

    name: str
    offset: int
    size: int


class TarIndex:
    """Reads an index file, a few records at a time.

    Args:
        path: written by `build_index`.

    Raises:
        ValueError: no index, or one of another version or length.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(Path(path).absolute())  # whatever the current folder is later
        open_files.forget(self.path)  # it may have been rewritten since it was open
        with Path(path).open("rb") as stream:
            head = stream.read(_HEADER)
            length = os.fstat(stream.fileno()).st_size
        if not head.startswith(_MAGIC):
            raise ValueError(f"{self.path!r} is no index of this version")
        try:
            self.header = IndexHeader(**json.loads(head[len(_MAGIC) :].rstrip(b"\0")))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"{self.path!r} has no header of an index") from error
        self._members_at = _HEADER + self.header.samples * _SAMPLE.itemsize
        self._names_at = self._members_at + self.header.members * _MEMBER.itemsize
        if length < self._names_at:
            raise ValueError(f"{self.path!r} is cut off")

    def __len__(self) -> int:
        return self.header.samples

    def is_whole(self) -> bool:
        """Whether its records are those that were written."""
        return checksum_of(self.path, _HEADER) == self.header.checksum

    def sample(self, number: int) -> list[Member]:
        """The members of a usable sample, in the archive's order; OSError where there are fewer samples."""
        if not 0 <= number < len(self):
            raise OSError("shard holds fewer samples than were announced")
        first, count = self._records(_HEADER, _SAMPLE, number, 1)[0].tolist()
        return self._members(first, count)

    def members(self) -> list[Member]:
        """All files of the archive."""
        return self._members(0, self.header.members)

    def _members(self, first: int, count: int) -> list[Member]:
        if not count:
            return []
        records = self._records(self._members_at, _MEMBER, first, count).tolist()
        start = records[0][2]
        names = self._read(self._names_at + start, records[-1][3] - start)
        return [
            Member(names[a - start : b - start].decode("utf-8", "surrogateescape"), offset, size)
            for offset, size, a, b in records
        ]

    def _records(self, at: int, kind: np.dtype[np.void], first: int, count: int) -> np.ndarray:
        return np.frombuffer(self._read(at + first * kind.itemsize, count * kind.itemsize), dtype=kind)

    def _read(self, offset: int, size: int) -> bytes:
        return open_files.read(self.path, offset, size)


def build_index(tar: str | Path, target: str | Path) -> IndexHeader:
    """Writes the index of an archive; it appears under its name only when it is complete.

    Args:
        tar: an uncompressed tar archive. A truncated one is indexed as far as its files are whole.
        target: the index file.

    Raises:
        InputError: compressed, or no tar archive at all.
    """
    before = Path(tar).stat()
    found, fault = _whole_members(tar, before.st_size)
    found = _by_key(found)
    samples, dropped = _samples([member.name for member in found])
    header = IndexHeader(before.st_size, before.st_mtime_ns, len(samples), len(found), dropped, fault)
    names = [member.name.encode("utf-8", "surrogateescape") for member in found]
    ends = np.cumsum([len(name) for name in names], dtype=np.uint64)
    records = np.zeros(len(found), dtype=_MEMBER)
    if found:
        records["offset"], records["size"] = [m.offset for m in found], [m.size for m in found]
        records["name_end"], records["name_start"][1:] = ends, ends[:-1]
    content = b"".join([np.array(samples, dtype=_SAMPLE).tobytes(), records.tobytes(), *names])
    header = replace(header, checksum=zlib.crc32(content))
    head = _MAGIC + json.dumps(asdict(header)).encode()
    with beside(target) as place, place.open("wb") as stream:
        stream.write(head.ljust(_HEADER, b"\0"))
        stream.write(content)
    open_files.forget(str(Path(target).absolute()))
    return header


def split_name(name: str) -> tuple[str, str]:
    """A member's name -> the key and the extension, as WebDataset splits it: at the file's first dot.

    What follows the last dot is in lower case; what stands before it may name a column and stays as it is.

    Examples:
        >>> split_name("photos/0001.JPG"), split_name("photos/0001.GPS.npy")
        (('photos/0001', 'jpg'), ('photos/0001', 'GPS.npy'))
    """
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return (f"{folder}/{stem}" if folder else stem), lowered(extension)


def lowered(extension: str) -> str:
    """An extension whose last part is in lower case.

    Examples:
        >>> lowered("JPG"), lowered("GPS.NPY")
        ('jpg', 'GPS.npy')
    """
    field, dot, last = extension.rpartition(".")
    return f"{field}{dot}{last.lower()}"


def missing_part(extensions: Iterable[str]) -> str | None:
    """Why a sample with these extensions cannot be used, None where it can.

    Used is an image with a text or label, or any two of an image, a text or label, and the further columns.

    Examples:
        >>> missing_part(["jpg", "txt"]), missing_part(["gps.npy", "jpg"]), missing_part(["jpg"])
        (None, None, 'no caption')
    """
    known = list(extensions)
    image = any(extension in IMAGE_EXTENSIONS for extension in known)
    text = any(extension in TEXT_EXTENSIONS for extension in known)
    columns = {name for name in map(column_name, known) if name is not None}
    if image + text + len(columns) >= 2:
        return None
    return "no caption" if image else "no image"


def _whole_members(tar: str | Path, size: int) -> tuple[list[Member], str | None]:
    """Files of an archive, or of several that were written one after the other, and why they end early."""
    found: list[Member] = []
    start: int | None = 0
    with Path(tar).open("rb") as stream:
        while start is not None:
            stream.seek(start)
            try:
                fault = _members_from(stream, size, found)
            except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:  # sizes below 0, or beyond any file
                if start:
                    return found, f"followed by {size - start:,} bytes that are no tar archive"
                if not found:
                    raise InputError(
                        f"shard {str(tar)!r} is no uncompressed tar archive ({error}): write it again, or unpack it if it is "
                        "compressed"
                    ) from error
                return found, f"broken after {found[-1].name!r} ({error})"
            if fault:
                return found, fault
            start = _next_archive(stream)
    return found, None


def _members_from(stream: BinaryIO, size: int, found: list[Member]) -> str | None:
    """Adds the files of the archive that begins here; the stream then stands at its end. Why it ends early, or None."""
    start = stream.tell()
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        # Asked for the next member of an archive without any, Python 3.10 seeks to before its beginning.
        while archive.offset > start and (member := archive.next()) is not None:
            if member.isfile() and not is_hidden(member.name):
                if member.size < 0 or member.offset_data + member.size > size:
                    return f"truncated inside {member.name!r}"
                found.append(Member(member.name.removeprefix("./"), member.offset_data, member.size))
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
        end = archive.offset
    stream.seek(end)
    block = stream.read(512)
    # A tar ends with blocks of zeros: one that was cut between two files has none, a damaged one something else.
    return f"broken after {found[-1].name!r}" if found and (len(block) < 512 or any(block)) else None


def _next_archive(stream: BinaryIO) -> int | None:
    """Where, after the zeros that end an archive, another one begins; None at the end of the file."""
    while block := stream.read(1 << 20):
        if rest := block.lstrip(b"\0"):
            at = stream.tell() - len(rest)
            return at - at % 512
    return None


def _by_key(members: list[Member]) -> list[Member]:
    """Members of a sample side by side, wherever they stand in the archive; a key that comes again is another sample."""
    samples: list[list[Member]] = []
    latest: dict[str, tuple[int, set[str]]] = {}
    for member in members:
        key, extension = split_name(member.name)
        place, extensions = latest.get(key, (-1, set()))
        if place < 0 or extension in extensions:
            place, extensions = len(samples), set()
            samples.append([])
            latest[key] = (place, extensions)
        samples[place].append(member)
        extensions.add(extension)
    return [member for sample in samples for member in sample]


def _samples(names: list[str]) -> tuple[list[tuple[int, int]], dict[str, int]]:
    """(first member, count) of usable samples, and why the others are not."""
    samples: list[tuple[int, int]] = []
    dropped = {"no image": 0, "no caption": 0}
    for first, extensions in _groups(names):
        reason = missing_part(extensions)
        if reason is None:
            samples.append((first, len(extensions)))
        else:
            dropped[reason] += 1
    return samples, {reason: count for reason, count in dropped.items() if count}


def _groups(names: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Members that stand side by side, share a key and have each extension once: the first one's number, the extensions."""
    first, key, extensions = 0, None, list[str]()
    for number, name in enumerate(names):
        own, extension = split_name(name)
        if (own != key or extension in extensions) and extensions:
            yield first, extensions
        if own != key or extension in extensions:
            first, key, extensions = number, own, []
        extensions.append(extension)
    if extensions:
        yield first, extensions
