"""Evaluation sets by name; importing this registers those that are built in, and opens none."""

from lightning_clip.prompts.sets import (
    actions,
    captioned,
    counted,
    foldered,
    imagenet,
    memes,
    paired,
    shard_sets,
    templates,
    voc,
)
from lightning_clip.prompts.sets.clip_benchmark import CaptionLines, LabelVectors, clip_benchmark
from lightning_clip.prompts.sets.digits import Digits
from lightning_clip.prompts.sets.known import KnownSet, known_sets
from lightning_clip.prompts.sets.names import CLASS_NAME_SETS, class_names
from lightning_clip.prompts.sets.roots import datasets_folder
from lightning_clip.prompts.sets.templates import SET_TEMPLATES
from lightning_clip.prompts.sets.torchvision import TorchvisionSource
from lightning_clip.prompts.sets.user_files import read_prompt_file

__all__ = [
    "CLASS_NAME_SETS",
    "SET_TEMPLATES",
    "CaptionLines",
    "Digits",
    "KnownSet",
    "LabelVectors",
    "TorchvisionSource",
    "actions",
    "captioned",
    "class_names",
    "clip_benchmark",
    "counted",
    "datasets_folder",
    "foldered",
    "imagenet",
    "known_sets",
    "memes",
    "paired",
    "read_prompt_file",
    "shard_sets",
    "templates",
    "voc",
]
