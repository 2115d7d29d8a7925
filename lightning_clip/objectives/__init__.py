"""What is learned from a batch: objectives by name; importing this registers those that are built in."""

from lightning_clip.objectives.bag import BagObjective
from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.build import build_objective
from lightning_clip.objectives.pairs import ContrastivePairs
from lightning_clip.objectives.weighted import WeightedSum, each_objective
from lightning_clip.objectives.words import Words

__all__ = [
    "BagObjective",
    "ContrastivePairs",
    "Objective",
    "WeightedSum",
    "Words",
    "build_objective",
    "each_objective",
    "objectives",
]
