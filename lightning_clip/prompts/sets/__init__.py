"""Evaluation sets by name; importing this registers those that are built in, and opens none."""

from lightning_clip.prompts.sets import templates
from lightning_clip.prompts.sets.clip_benchmark import CaptionLines, LabelVectors, clip_benchmark
from lightning_clip.prompts.sets.names import CLASS_NAME_SETS, class_names
from lightning_clip.prompts.sets.templates import SET_TEMPLATES
from lightning_clip.prompts.sets.torchvision import TorchvisionSource, datasets_folder
from lightning_clip.prompts.sets.user_files import read_prompt_file

__all__ = [
    "CLASS_NAME_SETS",
    "SET_TEMPLATES",
    "CaptionLines",
    "LabelVectors",
    "TorchvisionSource",
    "class_names",
    "clip_benchmark",
    "datasets_folder",
    "read_prompt_file",
    "templates",
]
