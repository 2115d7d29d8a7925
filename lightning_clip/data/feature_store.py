"""Features of images on disk, found by the image's digest; any number of processes may read and write at a time.

A store is a folder of parts. A part is an array of (digest of the image, feature) that one process wrote beside its place
and renamed there, so that a part is whole or not there; its name holds a checksum. Parts are only ever added.
"""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["FeatureStore", "digest_of"]

log = logging.getLogger(__name__)

_ROWS, _SECONDS = 8192, 60.0  # a part is written with so many rows, or after so long: a killed run loses no more than that
_PATIENCE = 10.0  # seconds between two looks for the parts of others within an epoch


def digest_of(image: bytes | Tensor) -> bytes:
    """16 bytes that stand for an image as it was stored, encoded or as uint8 pixels (3, H, W)."""
    if isinstance(image, Tensor):
        shape = repr(tuple(image.shape)).encode()
        return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16, key=shape[:64]).digest()
    return hashlib.blake2b(image, digest_size=16).digest()


class FeatureStore:
    """Rows of float32 (W,) by digest.

    Args:
        folder: of one tower and one transform; made when the first part is written.

    Examples:
        >>> import tempfile
        >>> store = FeatureStore(tempfile.mkdtemp())
        >>> store.add([digest_of(b"a"), digest_of(b"b")], torch.eye(2))
        >>> store.flush()
        >>> store.refresh()
        >>> store.find([digest_of(b"b"), digest_of(b"c")])
        [tensor([0., 1.]), None]
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._parts: dict[str, np.ndarray] = {}
        self._digests = np.empty(0, "S16")
        self._rows = np.empty((0, 2), np.int64)  # of each digest: which part, which row
        self._names: list[str] = []
        self._seen, self._looked, self._checked = -1, 0.0, False
        self._waiting: dict[bytes, np.ndarray] = {}
        self._since = time.monotonic()
        self._broken = False

    def __len__(self) -> int:
        """Rows on disk, as far as they were looked for."""
        return len(self._digests)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder}  # a worker opens the parts itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    # -- reading ----------------------------------------------------------------------------------------------------

    def find(self, digests: Sequence[bytes]) -> list[Tensor | None]:
        """The features (W,) of images by their digests, None where there is none yet."""
        if not len(self._digests):
            return [None] * len(digests)
        asked = np.array(digests, "S16")
        places = np.searchsorted(self._digests, asked).clip(max=len(self._digests) - 1)
        found: list[Tensor | None] = []
        for place, hit in zip(places.tolist(), (self._digests[places] == asked).tolist(), strict=True):
            part, row = self._rows[place]
            feature = self._parts[self._names[part]]["feature"][row] if hit else None
            found.append(None if feature is None else torch.from_numpy(np.array(feature)))
        return found

    def refresh(self, patient: bool = False, verify: bool = False) -> None:
        """Looks for parts that were added since.

        Args:
            patient: not again within some seconds.
            verify: read the new parts and compare their checksums; without it only their sizes are checked.
        """
        try:
            changed = self.folder.stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return
        if changed == self._seen or (patient and time.monotonic() - self._looked < _PATIENCE):
            return
        self._seen, self._looked = changed, time.monotonic()
        names = sorted(path.name for path in self.folder.glob("*.npy"))
        new = {name: part for name in names if name not in self._parts and (part := self._opened(name, verify)) is not None}
        if new:
            self._parts.update(new)
            self._names = list(self._parts)
            digests = np.concatenate([part["digest"] for part in self._parts.values()])
            rows = [np.stack([np.full(len(part), n), np.arange(len(part))], 1) for n, part in enumerate(self._parts.values())]
            order = np.argsort(digests, kind="stable")
            self._digests, self._rows = digests[order], np.concatenate(rows)[order]

    def _opened(self, name: str, verify: bool) -> np.ndarray | None:
        """A part mapped into memory; one that is damaged is said and taken away, to be computed again."""
        path = self.folder / name
        try:
            part: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
            if part.dtype.names != ("digest", "feature"):
                raise ValueError("not a part of a store")
            if verify and _checksum(part) != name.partition("-")[0]:
                raise ValueError("its checksum is another")
            return part
        except FileNotFoundError:
            return None  # taken away by another process
        except (OSError, ValueError, EOFError) as error:
            log.warning("cached features %s are damaged (%s): they are removed and computed again", path, error)
            path.unlink(missing_ok=True)
            return None

    # -- writing ----------------------------------------------------------------------------------------------------

    def add(self, digests: Sequence[bytes], features: Tensor) -> None:
        """Remembers features (B, W) and writes them, some thousand at a time."""
        if self._broken or not torch.isfinite(features).all():
            return
        if not self._waiting:
            self._since = time.monotonic()
        rows = features.detach().float().cpu().numpy()
        self._waiting.update(zip(digests, rows, strict=True))
        if len(self._waiting) >= _ROWS or time.monotonic() - self._since > _SECONDS:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting. A disk that is full costs the cache, not the run."""
        if not self._waiting:
            return
        width = len(next(iter(self._waiting.values())))
        part = np.empty(len(self._waiting), np.dtype([("digest", "S16"), ("feature", "<f4", (width,))]))
        part["digest"] = list(self._waiting)
        part["feature"] = np.stack(list(self._waiting.values()))
        self._waiting = {}
        mark = uuid.uuid4().hex[:12]
        beside = self.folder / f".{mark}.partial"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with beside.open("wb") as stream:
                np.save(stream, part, allow_pickle=False)
            beside.rename(self.folder / f"{_checksum(part)}-{mark}.npy")
        except OSError as error:
            self._broken = True
            beside.unlink(missing_ok=True)
            log.warning("features cannot be written to %s (%s): this run goes on without adding any", self.folder, error)


def _checksum(part: np.ndarray) -> str:
    return f"{zlib.crc32(part):08x}"  # type: ignore[arg-type]
