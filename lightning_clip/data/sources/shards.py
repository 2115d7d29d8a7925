"""Tar shards in WebDataset layout, local or remote."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lightning_clip.core.errors import InputError
from lightning_clip.core.secrets import checked_options
from lightning_clip.core.types import TEACHERS, Pair
from lightning_clip.data.column_files import ColumnFile, Columns, column_name, sample_rates
from lightning_clip.data.order import Order, Windowed
from lightning_clip.data.shards import IMAGE_EXTENSIONS, TEXT_EXTENSIONS, expand_shards, is_url, missing_part
from lightning_clip.data.shards.addresses import shown
from lightning_clip.data.shards.cache import ShardCache
from lightning_clip.data.shards.collection import LocalShards, Shards
from lightning_clip.data.shards.remote import Remote
from lightning_clip.data.shards.remote_collection import RemoteShards
from lightning_clip.data.shards.unpacked import COMPRESSED, unpacked
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.columns import cell, texts
from lightning_clip.data.text_files import decode_text, lines_of

__all__ = ["ShardSource", "pair_of_members"]

log = logging.getLogger(__name__)


@pair_sources.register("shards")
class ShardSource(PairSource):
    """Tar shards in WebDataset layout: per sample an image and a .txt, a .json with captions, or a .cls label.

    Members KEY.NAME.npy and KEY.NAME.wav are the sample's column NAME (KEY.wav the column "wav"): an array, or sound as
    float32 (channels, samples) in [-1, 1] whose sample rate stands in the metadata as "NAME.sample_rate". With two of an
    image, a text and such columns a sample can be used.

    Local shards are indexed once (a file `SHARD.index` beside each, or in the cache folder) and read at random. Remote ones
    (http, https, s3, gs, hf and what else fsspec knows) are fetched to a bounded local folder, `window` shards at a time
    being mixed while the next are on their way.

    Args:
        path: one shard, or many by braces or stars ("train-{000000..000099}.tar", "s3://bucket/train-*.tar").
        caption_key: key of the captions in .json members.
        window: remote shards that are mixed at a time, at least 1; each epoch draws other windows.
        cache_folder: for remote shards; None for the user's cache folder or `LIGHTNING_CLIP_CACHE`.
        cache_gigabytes: most that remote shards may take there; at least two windows should fit.
        stall_seconds: a server that gives no answer, or no byte, for so long has failed; it is tried four times.
        storage_options: for the fsspec file system of remote shards: {"headers": {"Authorization": "Bearer ..."}} for https,
            {"key": ..., "secret": ...} for s3, {"token": ...} for hf and gs.

    Raises:
        InputError: a shard is missing or no tar, or no sample has both image and text (or label, or a further column); no
            remote shard can be read, or its server fails.
    """

    def __init__(
        self,
        path: str,
        caption_key: str = "caption",
        *,
        window: int = 8,
        cache_folder: str | None = None,
        cache_gigabytes: float = 100.0,
        stall_seconds: float = 60.0,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        if window < 1:
            raise InputError(f"window {window} must be at least 1 shard")
        if not stall_seconds > 0:
            raise InputError(f"stall_seconds {stall_seconds} must be positive")
        remote_files = Remote(stall=stall_seconds, storage_options=checked_options(storage_options))
        self.path, self.caption_key, self.window = shown(path), caption_key, window
        names = expand_shards(path, remote_files)
        names = [unpacked(name) if name.endswith(COMPRESSED) and not is_url(name) else name for name in names]
        remote = [is_url(name) for name in names]
        if any(remote) and not all(remote):
            raise InputError(f"shards {path!r} are local and remote ones: name them as two sources of a mix")
        self.shards: Shards = (
            RemoteShards(names, ShardCache(cache_folder, cache_gigabytes, remote_files)) if any(remote) else LocalShards(names)
        )
        self._starts = np.concatenate([[0], np.cumsum(self.shards.counts)])
        self._say_what_is_missing()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def order(self, seed: int) -> Order:
        """Local shards: a permutation of all samples. Remote ones: windows of shards."""
        if isinstance(self.shards, LocalShards):
            return super().order(seed)
        return Windowed(self.shards.counts, self.window, seed)

    def lost(self) -> dict[str, int]:
        return {reason: int(self.shards.counts[shard]) for shard, reason in self.shards.lost.items()}

    def fetch(self, shards: list[int]) -> None:
        self.shards.fetch_ahead(shards)

    def captions(self, index: int) -> tuple[str, ...]:
        shard, number = self._place(index)
        members = self.shards.read(shard, lambda reader: reader.text(number, TEXT_EXTENSIONS))
        return _captions(members, self.caption_key)[0]

    def label(self, index: int) -> int | None:
        shard, number = self._place(index)
        members = self.shards.read(shard, lambda reader: reader.text(number, ("cls",)))
        return int(members["cls"]) if "cls" in members else None

    def place(self, index: int) -> str:
        shard, number = self._place(index)
        return f"sample {number} of {shown(self.shards.names[shard])}"

    def __getitem__(self, index: int) -> Pair:
        shard, number = self._place(index)
        key, members = self.shards.read(shard, lambda reader: reader.sample(number))
        pair = pair_of_members(key, members, self.caption_key)
        assert pair is not None  # the index holds usable samples only
        return pair

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _say_what_is_missing(self) -> None:
        """Samples that no epoch will show: counted here, once, because no worker ever meets them."""
        dropped: Counter[str] = Counter()
        for _, header in self.shards.headers():
            dropped.update(header.dropped)
        listing = ", ".join(f"{count:,} with {reason}" for reason, count in dropped.most_common())
        if not len(self):
            found = f" ({listing})" if listing else ""
            raise InputError(
                f"shards {self.path!r} hold no sample with an image and a text{found}: each needs KEY.jpg (or png, webp) "
                "beside KEY.txt, KEY.json or KEY.cls, or two of these and KEY.COLUMN.npy. `lightning-clip data pack` writes "
                "such shards."
            )
        if dropped:
            empty = sum(count == 0 for count in self.shards.counts)
            shards = f" ({empty} of {len(self.shards.counts)} shards hold no pair)" if empty else ""
            log.warning("shards %s: %d samples are used; omitted: %s%s", self.path, len(self), listing, shards)


def pair_of_members(key: str, members: Mapping[str, bytes], caption_key: str) -> Pair | None:
    """The files of a sample (extension -> bytes) as a pair; None where too little is there, see `missing_part`."""
    if missing_part(members) is not None:
        return None
    image = next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)
    captions, record = _captions(members, caption_key)
    label = int(members["cls"]) if "cls" in members else None
    columns = _columns(members)
    if TEACHERS in members:
        record = {**record, TEACHERS: members[TEACHERS]}
    record = {**record, **sample_rates(columns)}
    return Pair(image, captions, key, label, metadata=record, weights=_weights(record, captions), columns=columns)


def _columns(members: Mapping[str, bytes]) -> Columns:
    """The members that are columns, still as bytes; of one column's array and sound the array."""
    found = {}
    for extension in sorted(members, reverse=True):
        if (name := column_name(extension)) is not None:
            found[name] = ColumnFile(extension.rpartition(".")[2], partial(members.__getitem__, extension))
    return Columns(found)


def _captions(members: Mapping[str, bytes], key: str) -> tuple[tuple[str, ...], Mapping[str, Any]]:
    """Texts of a sample, and the record of its .json member."""
    record: Mapping[str, Any] = {}
    if "json" in members:
        try:
            found = json.loads(decode_text(members["json"]))
        except (ValueError, RecursionError) as error:
            raise ValueError("caption file is no JSON") from error
        record = found if isinstance(found, dict) else {}
        if (value := cell(record, key)) is not None:
            return texts(value, key), record
    if "txt" in members:
        return lines_of(members["txt"]), record
    return (), record


def _weights(record: Mapping[str, Any], captions: tuple[str, ...]) -> tuple[float, ...] | None:
    weights = record.get("weights")
    return tuple(weights) if isinstance(weights, list) and len(weights) == len(captions) else None


@recognises(10)
def _shards(name: str) -> Callable[..., PairSource] | None:
    tar = name.partition("?")[0].endswith((".tar", *COMPRESSED))
    pattern = ("{" in name or "*" in name) and not name.endswith((".parquet", ".csv", ".tsv", ".jsonl", ".json"))
    return partial(ShardSource, name) if tar or pattern else None


@recognises(100)
def _folder_of_shards(name: str) -> Callable[..., PairSource] | None:
    """As img2dataset leaves it (00000.tar, 00000_stats.json, 00000.parquet, ...), or `data pack` (train-000000.tar, ...)."""
    path = Path(name).expanduser()
    images = {"images.tar", "imgs.tar"}  # beside a table, they hold no pairs
    tars = {tar.name for tar in path.glob("*.tar")} if path.is_dir() else set()
    return partial(ShardSource, str(path / "*.tar")) if tars and not tars <= images else None
