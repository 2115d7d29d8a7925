"""Tar shards in WebDataset layout: paths arrive, pairs leave."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from lightning_clip.data.images import IMAGE_EXTENSIONS
from lightning_clip.data.shards import TarReader, expand_shards, read_samples
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.errors import InputError
from lightning_clip.types import Pair

__all__ = ["ShardSource"]


@pair_sources.register("shards")
class ShardSource(PairSource):
    """Tar shards in WebDataset layout: per sample an image and a .txt, a .json with captions, or a .cls label.

    Args:
        path: one shard, or many by braces or stars ("train-{000000..000099}.tar").
        caption_key: key of the captions in .json members.

    Raises:
        InputError: a shard is missing or broken, or no sample has both image and text (or label).
    """

    def __init__(self, path: str, caption_key: str = "caption") -> None:
        self.caption_key = caption_key
        self._readers = [TarReader(shard) for shard in expand_shards(path)]
        self._samples = [
            (reader, sample.key, image, sample.members)
            for reader in self._readers
            for sample in read_samples(reader)
            if (image := _image_member(sample.members)) and _has_text(sample.members)
        ]
        if not self._samples:
            raise InputError(
                f"shards {path!r} hold no sample with an image and a text: each needs KEY.jpg (or png, webp) beside KEY.txt, "
                "KEY.json or KEY.cls. `lightning-clip data pack` writes such shards."
            )

    def __len__(self) -> int:
        return len(self._samples)

    def captions(self, index: int) -> tuple[str, ...]:
        reader, _, _, members = self._samples[index]
        if "json" in members:
            value = json.loads(reader.read(members["json"])).get(self.caption_key)
            if value is not None:
                texts = value if isinstance(value, list) else [value]
                return tuple(text.strip() for text in texts if text.strip())
        if "txt" in members:
            text = reader.read(members["txt"]).decode("utf-8", errors="replace").strip()
            return (text,) if text else ()
        return ()

    def __getitem__(self, index: int) -> Pair:
        reader, key, image, members = self._samples[index]
        label = int(reader.read(members["cls"])) if "cls" in members else None
        return Pair(image=reader.read(image), captions=self.captions(index), key=key, label=label)


def _image_member(members: Mapping[str, str]) -> str | None:
    return next((members[extension] for extension in IMAGE_EXTENSIONS if extension in members), None)


def _has_text(members: Mapping[str, str]) -> bool:
    return any(extension in members for extension in ("txt", "json", "cls"))


@recognises(10)
def _shards(name: str) -> Callable[..., PairSource] | None:
    return partial(ShardSource, name) if Path(name).suffix == ".tar" or "{" in name or "*" in name else None
