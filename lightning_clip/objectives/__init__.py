"""What is learned from a batch: objectives by name; importing this registers those that are built in."""

from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.build import build_objective
from lightning_clip.objectives.pairs import ContrastivePairs
from lightning_clip.objectives.weighted import WeightedSum, each_objective

__all__ = ["ContrastivePairs", "Objective", "WeightedSum", "build_objective", "each_objective", "objectives"]
