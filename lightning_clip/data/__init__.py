"""Pairs: sources, order, transforms, tokenizers and the data module, which is imported when first used: it needs Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_clip.data.clip_tokenizer import ClipTokenizer
from lightning_clip.data.few_shot import FewShotSource
from lightning_clip.data.moving_shapes import MovingShapes
from lightning_clip.data.objects import SyntheticObjects
from lightning_clip.data.puzzles import ScenePuzzles
from lightning_clip.data.sampler import PairSampler
from lightning_clip.data.signs import SyntheticSigns
from lightning_clip.data.sources import ClassFolders, PairSource, ShardSource, TableSource, pair_sources
from lightning_clip.data.synthetic import SyntheticScenes
from lightning_clip.data.tokenizers import JsonTokenizer, Tokenizer, tokenizers, train_tokenizer
from lightning_clip.data.transforms import ImageTransformSettings

if TYPE_CHECKING:
    from lightning_clip.data.datamodule import ClipDataModule

__all__ = [
    "ClassFolders",
    "ClipDataModule",
    "ClipTokenizer",
    "FewShotSource",
    "ImageTransformSettings",
    "JsonTokenizer",
    "MovingShapes",
    "PairSampler",
    "PairSource",
    "ScenePuzzles",
    "ShardSource",
    "SyntheticObjects",
    "SyntheticScenes",
    "SyntheticSigns",
    "TableSource",
    "Tokenizer",
    "pair_sources",
    "tokenizers",
    "train_tokenizer",
]


def __getattr__(name: str) -> Any:
    if name == "ClipDataModule":
        from lightning_clip.data.datamodule import ClipDataModule

        return ClipDataModule
    raise AttributeError(f"module 'lightning_clip.data' has no attribute {name!r}")
