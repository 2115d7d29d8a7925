"""Sources: what a user has -> pairs, one file a kind."""

import lightning_clip.data.sources.file_layouts  # noqa: F401  (registers what recognises folders of files)
from lightning_clip.data.sources.base import PairSource, Subset, pair_sources, readable_captions, recognises
from lightning_clip.data.sources.chinese_clip import ChineseClipSource
from lightning_clip.data.sources.class_in_name import ClassInName
from lightning_clip.data.sources.coco import CocoBoxes
from lightning_clip.data.sources.file_pairs import FilePairs
from lightning_clip.data.sources.folders import ClassFolders
from lightning_clip.data.sources.huggingface import HuggingFaceSource
from lightning_clip.data.sources.masked_folders import MaskedFolders
from lightning_clip.data.sources.mixed import MixedSource
from lightning_clip.data.sources.msrvtt import MsrVtt
from lightning_clip.data.sources.pictures import ImagesAlone, Pictures
from lightning_clip.data.sources.rendered_text import RenderedText
from lightning_clip.data.sources.resampled import Resampled
from lightning_clip.data.sources.sampled_videos import SampledVideos
from lightning_clip.data.sources.shards import ShardSource
from lightning_clip.data.sources.split_files import Divided
from lightning_clip.data.sources.split_parts import Split
from lightning_clip.data.sources.tables import TableSource
from lightning_clip.data.sources.video_classes import VideoClasses
from lightning_clip.data.sources.video_files import VideoFolder
from lightning_clip.data.sources.video_pictures import VideoPictures

__all__ = [
    "ChineseClipSource",
    "ClassFolders",
    "ClassInName",
    "CocoBoxes",
    "Divided",
    "FilePairs",
    "HuggingFaceSource",
    "ImagesAlone",
    "MaskedFolders",
    "MixedSource",
    "MsrVtt",
    "PairSource",
    "Pictures",
    "RenderedText",
    "Resampled",
    "SampledVideos",
    "ShardSource",
    "Split",
    "Subset",
    "TableSource",
    "VideoClasses",
    "VideoFolder",
    "VideoPictures",
    "pair_sources",
    "readable_captions",
    "recognises",
]
