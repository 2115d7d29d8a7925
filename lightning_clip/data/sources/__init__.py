"""Sources: what a user has -> pairs, one file a kind."""

import lightning_clip.data.sources.file_layouts  # noqa: F401  (registers what recognises folders of files)
from lightning_clip.data.sources.base import PairSource, Subset, pair_sources, readable_captions, recognises
from lightning_clip.data.sources.chinese_clip import ChineseClipSource
from lightning_clip.data.sources.class_in_name import ClassInName
from lightning_clip.data.sources.file_pairs import FilePairs
from lightning_clip.data.sources.folders import ClassFolders
from lightning_clip.data.sources.huggingface import HuggingFaceSource
from lightning_clip.data.sources.mixed import MixedSource
from lightning_clip.data.sources.pictures import ImagesAlone, Pictures
from lightning_clip.data.sources.resampled import Resampled
from lightning_clip.data.sources.shards import ShardSource
from lightning_clip.data.sources.tables import TableSource

__all__ = [
    "ChineseClipSource",
    "ClassFolders",
    "ClassInName",
    "FilePairs",
    "HuggingFaceSource",
    "ImagesAlone",
    "MixedSource",
    "PairSource",
    "Pictures",
    "Resampled",
    "ShardSource",
    "Subset",
    "TableSource",
    "pair_sources",
    "readable_captions",
    "recognises",
]
