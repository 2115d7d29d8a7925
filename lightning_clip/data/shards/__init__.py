"""Shards: random access to the samples inside tar archives, local or cached from remote."""

from lightning_clip.data.shards.addresses import is_url
from lightning_clip.data.shards.index import (
    IMAGE_EXTENSIONS,
    TEXT_EXTENSIONS,
    IndexHeader,
    Member,
    TarIndex,
    build_index,
    lowered,
    missing_part,
)
from lightning_clip.data.shards.locations import expand_shards
from lightning_clip.data.shards.reader import TarReader, cache_folder, open_index

__all__ = [
    "IMAGE_EXTENSIONS",
    "TEXT_EXTENSIONS",
    "IndexHeader",
    "Member",
    "TarIndex",
    "TarReader",
    "build_index",
    "cache_folder",
    "expand_shards",
    "is_url",
    "lowered",
    "missing_part",
    "open_index",
]
