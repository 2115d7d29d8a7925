"""The one pass over images: a few numbers for each pair."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.curation.entries import Matcher
from lightning_clip.curation.filters import Filter, Looked, Score, pair_filters
from lightning_clip.data.shards.remote_errors import check_lasting
from lightning_clip.data.sources import PairSource, pair_sources, readable_captions
from lightning_clip.data.write_shard import image_hash

__all__ = ["FORMAT", "Look", "Seen", "fingerprint", "perceptual_hash"]

KEPT = ""
FORMAT = 1  # of what is stored; another number, and stored units of older versions are not read
_BATCH = 256  # pairs decoded at a time


@dataclass
class Seen:
    """What a look at N pairs found.

    Attributes:
        reasons: names of the reasons; the first is "", for pairs that stay.
        reason: number of the reason of each pair, int16 (N,).
        digest: first 16 bytes of the image's SHA-256, uint8 (N, 16); zeros where nothing was hashed.
        picture: perceptual hash, uint8 (N, 32).
        score: CLIP score, float32 (N,), NaN where there is none.
        owners: place in the range of the pair of each match, int64 (M,).
        entries: entry of each match, int64 (M,).
    """

    reasons: np.ndarray
    reason: np.ndarray
    digest: np.ndarray
    picture: np.ndarray
    score: np.ndarray
    owners: np.ndarray
    entries: np.ndarray

    def save(self, path: Path) -> None:
        """Writes an .npz file, which `load` reads."""
        with beside(path) as place:
            np.savez(place, **{entry.name: getattr(self, entry.name) for entry in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Seen:
        """Reads what `save` wrote."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(**{entry.name: stored[entry.name] for entry in fields(cls)})

    @classmethod
    def joined(cls, parts: Sequence[Seen]) -> Seen:
        """The parts of a source one after the other, their reasons under common numbers."""
        names = list(dict.fromkeys(name for part in parts for name in part.reasons.tolist()))
        numbers = {name: number for number, name in enumerate(names)}
        starts = np.cumsum([0, *(len(part.reason) for part in parts)])
        reason = [np.array([numbers[name] for name in part.reasons.tolist()], np.int16)[part.reason] for part in parts]
        plain = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in ("digest", "picture", "score", "entries")
        }
        owners = np.concatenate([part.owners + start for part, start in zip(parts, starts, strict=False)])
        return cls(reasons=np.array(names), reason=np.concatenate(reason), owners=owners, **plain)


class Look:
    """Looks at ranges of a source; sent to every process that works on it.

    Args:
        source: pairs, or what `pair_sources` builds; a description travels to other machines, an open source to forks.
        given: filters, as names, mappings or objects.
        matcher: for balancing.
        exact: hash the bytes.
        perceptual: hash the pixels.
    """

    def __init__(
        self, source: Any, given: Sequence[Any], matcher: Matcher | None = None, *, exact: bool = True, perceptual: bool = False
    ) -> None:
        self.given, self.matcher, self.exact, self.perceptual = list(given), matcher, exact, perceptual
        self._description = None if isinstance(source, PairSource) else source
        self.source: PairSource | None = pair_sources.build(source)
        self.filters: list[Filter] = [pair_filters.build(spec) for spec in given]
        self.scores = any(isinstance(entry, Score) for entry in self.filters)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "source": self.source if self._description is None else None}

    def opened(self) -> PairSource:
        """The source, opened anew where only its description arrived."""
        if self.source is None:
            self.source = pair_sources.build(self._description)
        return self.source

    def __call__(self, number: int, start: int, stop: int) -> Seen:
        """Looks at the pairs [start, stop)."""
        unit = _Unit(stop - start)
        for first in range(start, stop, _BATCH):
            self._batch(unit, start, range(first, min(stop, first + _BATCH)))
        return unit.seen()

    def texts(self, index: int) -> tuple[str, ...]:
        """The captions of a pair, none if they cannot be read."""
        return readable_captions(self.opened(), index)

    def _batch(self, unit: _Unit, start: int, indices: Sequence[int]) -> None:
        left: dict[int, Looked] = {}
        for index in indices:
            if (pair := self._read(unit, index, index - start)) is not None:
                left[index - start] = pair
        for entry in self.filters:
            if entry.needs_pixels:
                left = self._decoded(unit, left)
            for place, passed in zip(list(left), entry.passes(list(left.values())), strict=True):
                if not passed:
                    unit.score[place] = _number(left.pop(place).score)
                    unit.drop(place, entry.reason)
        for place, sample in self._decoded(unit, left).items():
            unit.score[place] = _number(sample.score)
            if self.perceptual:
                unit.picture[place] = perceptual_hash(sample.pixels)
            if self.matcher is not None:
                unit.match(place, self.matcher.find(sample.captions))

    def _read(self, unit: _Unit, index: int, place: int) -> Looked | None:
        try:
            pair = self.opened()[index]
        except (OSError, ValueError, KeyError) as error:
            check_lasting(error)
            unit.drop(place, reason_of(error))
            return None
        if not pair.captions or pair.image is None:
            unit.drop(place, "no image" if pair.captions else "no caption")
            return None
        if self.exact:
            unit.digest[place] = np.frombuffer(bytes.fromhex(image_hash(pair.image).decode())[:16], np.uint8)
        return Looked(pair.captions, pair.image, pair.metadata)

    def _decoded(self, unit: _Unit, samples: dict[int, Looked]) -> dict[int, Looked]:
        """Those whose images decode; the others are dropped with the decoder's reason."""
        good = {}
        for place, sample in samples.items():
            try:
                sample.pixels  # noqa: B018  (decodes)
            except ValueError as error:
                unit.drop(place, str(error))
                continue
            good[place] = sample
        return good


class _Unit:
    """The arrays of a range while they are filled."""

    def __init__(self, length: int) -> None:
        self.reasons = {KEPT: 0}
        self.reason = np.zeros(length, np.int16)
        self.digest = np.zeros((length, 16), np.uint8)
        self.picture = np.zeros((length, 32), np.uint8)
        self.score = np.full(length, np.nan, np.float32)
        self._owners: list[int] = []
        self._entries: list[int] = []

    def drop(self, place: int, reason: str) -> None:
        self.reason[place] = self.reasons.setdefault(reason, len(self.reasons))

    def match(self, place: int, entries: list[int]) -> None:
        self._owners += [place] * len(entries)
        self._entries += entries

    def seen(self) -> Seen:
        owners, entries = np.array(self._owners, np.int64), np.array(self._entries, np.int64)
        names = np.array(list(self.reasons), dtype=np.str_)
        return Seen(names, self.reason, self.digest, self.picture, self.score, owners, entries)


def perceptual_hash(pixels: Tensor) -> np.ndarray:
    """256 bits that hardly change when a picture is resized, re-encoded or brightened: the signs of its low frequencies.

    The DCT hash (Zauner 2010), as imagehash computes it. Copies at half the size or JPEG quality 50 differ in up to 14 bits,
    different photographs in 80 and more; products before a white background come as near as 30.

    Args:
        pixels: uint8 (3, H, W).

    Returns:
        uint8 (32,).

    Raises:
        InputError: the library is missing.
    """
    try:
        import imagehash
    except ImportError as error:
        raise InputError('perceptual hashes need imagehash: pip install "lightning-clip[curate]"') from error
    from torchvision.transforms.v2.functional import to_pil_image

    return np.packbits(imagehash.phash(to_pil_image(pixels), hash_size=16).hash.reshape(-1))


def fingerprint(*values: Any) -> str:
    """A short name for settings; the same settings give the same on every machine."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def _number(score: float | None) -> float:
    return float("nan") if score is None else score
