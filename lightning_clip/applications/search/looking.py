"""The pass over a source: pictures -> unit features, thumbnails and captions; sent to every process that works on it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import current_process
from typing import Any

import numpy as np
from torch import Tensor

from lightning_clip.core.errors import reason_of
from lightning_clip.curation.duplicates import as_items
from lightning_clip.data.decoding import decode
from lightning_clip.data.feature_store import digest_of
from lightning_clip.data.image_steps import reading_of
from lightning_clip.data.shards.remote_errors import check_lasting
from lightning_clip.data.sources import PairSource, pair_sources
from lightning_clip.loading import open_predictor
from lightning_clip.model.predictor import Predictor

__all__ = ["Looked", "Looking"]

_BATCH = 64  # pictures that are decoded at a time


@dataclass
class Looked:
    """One picture of a source.

    Attributes:
        row: its place in the source.
        key: its name there.
        place: where it stands, for people.
        reason: why it cannot be read; all that follows is empty then.
        captions: its texts.
        size: width and height in pixels; (0, 0) where it is known.
        digest: 16 bytes that stand for it.
        thumbnail: a small JPEG.
        features: float16 (D,), None where the index has the very picture already.
    """

    row: int
    key: str
    place: str
    reason: str = ""
    captions: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    digest: bytes = b""
    thumbnail: bytes = b""
    features: np.ndarray | None = field(default=None, repr=False)


class Looking:
    """Looks at ranges of a source.

    Args:
        source: pairs, or what `pair_sources` builds; a description travels to other machines, an open source to forks.
        model: what `open_predictor` opens, None where there is only `predictor`.
        known: digests of the pictures that need no features, uint8 (N, 16).
        thumbnail: longer side of the small pictures in pixels; 0 makes none.
        devices: such as ("cuda:0", "cuda:1"): each process takes the next; empty computes where the model is.
        predictor: of that model, which forks share; other machines open the model by its name.
    """

    def __init__(
        self,
        source: Any,
        model: str | None,
        known: np.ndarray,
        *,
        thumbnail: int = 224,
        devices: Sequence[str] = (),
        predictor: Predictor | None = None,
    ) -> None:
        self._description = None if isinstance(source, PairSource) else source
        self.source: PairSource | None = pair_sources.build(source)
        self.model, self.thumbnail, self.devices = model, thumbnail, tuple(devices)
        self._known = np.sort(as_items(known))
        self._predictor, self._placed = predictor, False

    def __getstate__(self) -> dict[str, Any]:
        source = self.source if self._description is None else None
        return {**self.__dict__, "source": source, "_predictor": self._predictor if self.model is None else None}

    def opened(self) -> PairSource:
        """The source, opened here where only its description arrived."""
        if self.source is None:
            self.source = pair_sources.build(self._description)
        return self.source

    def predictor(self) -> Predictor:
        """The model, opened here where only its name arrived, on this process's device."""
        if self._predictor is None:
            assert self.model is not None
            self._predictor = open_predictor(self.model)
        if self.devices and not self._placed:
            number = (current_process()._identity or (0,))[-1]
            self._predictor.model.to(self.devices[number % len(self.devices)])
            self._placed = True
        return self._predictor

    def __call__(self, number: int, start: int, stop: int) -> list[Looked]:
        """Looks at the rows [start, stop)."""
        found: list[Looked] = []
        for first in range(start, stop, _BATCH):
            found += self._batch(range(first, min(stop, first + _BATCH)))
        return found

    def _batch(self, rows: Sequence[int]) -> list[Looked]:
        found = [self._look(row) for row in rows]
        new = [(looked, pixels) for looked, pixels in found if pixels is not None]
        if new:
            features = self.predictor().encode_image([pixels for _, pixels in new], _BATCH)
            for (looked, _), row in zip(new, features.float().cpu().numpy(), strict=True):
                looked.features = row.astype(np.float16)  # (D,)
        return [looked for looked, _ in found]

    def _look(self, row: int) -> tuple[Looked, Tensor | None]:
        """A picture, and its pixels where they must be encoded."""
        source = self.opened()
        place = source.place(row)
        try:
            pair = source[row]
            if pair.image is None:
                return Looked(row, pair.key, place, "no image"), None
            place = str(pair.metadata.get("place", place))  # of a frame the time is known now
            looked = Looked(row, pair.key, place, captions=pair.captions, digest=digest_of(pair.image))
            if self._is_known(looked.digest):
                return looked, None
            pixels = decode(pair.image, reading_of(self.predictor().transform))
        except (OSError, ValueError, KeyError) as error:
            check_lasting(error)
            return Looked(row, str(row), place, reason_of(error)), None
        looked.size = pixels.shape[2], pixels.shape[1]
        looked.thumbnail = small_picture(pixels, self.thumbnail)
        return looked, pixels

    def _is_known(self, digest: bytes) -> bool:
        item = as_items(np.frombuffer(digest, np.uint8)[None])
        place = int(np.searchsorted(self._known, item)[0]) if len(self._known) else 0
        return place < len(self._known) and bool(self._known[place] == item[0])


def small_picture(pixels: Tensor, side: int) -> bytes:
    """A JPEG whose longer side has at most so many pixels.

    Args:
        pixels: uint8 (C, H, W); of more than three bands the first three are shown.
        side: 0 gives no picture.
    """
    if not side:
        return b""
    from torchvision.transforms.v2.functional import to_pil_image

    picture = to_pil_image(pixels[:3])
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
