"""Random access to the files inside tar archives: a path and a member's name arrive, its bytes leave."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lightning_clip.errors import InputError, existing_path

__all__ = ["TarReader", "TarSample", "expand_shards", "read_samples"]


class TarReader:
    """An indexed, uncompressed tar archive; safe to use from forked and spawned workers.

    Args:
        path: the archive.

    Raises:
        InputError: missing, compressed, or no tar archive.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(existing_path(path, "tar archive"))
        self._members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(self.path, "r:") as archive:
                for member in archive:
                    if member.isfile():
                        self._members[member.name.removeprefix("./")] = (member.offset_data, member.size)
        except tarfile.TarError as error:
            found = len(self._members)
            raise InputError(
                f"shard {self.path!r} is no complete uncompressed tar archive ({error}; {found} files read before): "
                "write it again, or unpack it if it is compressed"
            ) from error
        self._check_size()
        self._descriptor: int | None = None

    def names(self) -> list[str]:
        """Members in the order of the archive."""
        return list(self._members)

    def read(self, name: str) -> bytes:
        """The bytes of one member; reads at an offset, so processes and threads do not disturb each other."""
        if self._descriptor is None:
            self._descriptor = os.open(self.path, os.O_RDONLY)
        offset, size = self._members[name]
        return os.pread(self._descriptor, size, offset)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]

    def _check_size(self) -> None:
        end = max((offset + size for offset, size in self._members.values()), default=0)
        if end > Path(self.path).stat().st_size:
            raise InputError(f"shard {self.path!r} is truncated: its last file ends beyond the archive. Write it again.")


class TarSample(NamedTuple):
    """The members of a shard that share a key: file extension (without the dot) -> member name."""

    key: str
    members: dict[str, str]


def read_samples(reader: TarReader) -> Iterator[TarSample]:
    """Groups members as WebDataset does: the key is the path up to the first dot of the file name, members are adjacent."""
    current: TarSample | None = None
    for name in reader.names():
        folder, _, file = name.rpartition("/")
        stem, _, extension = file.partition(".")
        key = f"{folder}/{stem}" if folder else stem
        if current is None or current.key != key:
            if current is not None:
                yield current
            current = TarSample(key, {})
        current.members[extension.lower()] = name
    if current is not None:
        yield current


def expand_shards(pattern: str) -> list[str]:
    """Brace expansion and globbing of shard paths: "train-{000000..000099}.tar", "train-*.tar".

    Raises:
        InputError: nothing matches.
    """
    from braceexpand import braceexpand

    expanded = [str(Path(path).expanduser()) for path in braceexpand(pattern)]
    paths: list[str] = []
    for path in expanded:
        if "*" in path:
            parent = Path(path).parent
            paths += sorted(str(found) for found in parent.glob(Path(path).name))
        else:
            paths.append(path)
    if not paths:
        raise InputError(f"no shard matches {pattern!r}: check the folder and the pattern")
    return paths
