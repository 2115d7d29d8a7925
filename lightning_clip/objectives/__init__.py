"""What is learned from a batch: objectives by name; importing this registers those that are built in."""

from lightning_clip.objectives.bag import BagObjective
from lightning_clip.objectives.base import Objective, objectives
from lightning_clip.objectives.build import build_objective
from lightning_clip.objectives.captioning import Captioning
from lightning_clip.objectives.clip_refine import ClipRefine
from lightning_clip.objectives.coca import Coca
from lightning_clip.objectives.decoding import DecodingObjective
from lightning_clip.objectives.detection import Detection
from lightning_clip.objectives.fastclip import FastClip
from lightning_clip.objectives.flair import Flair
from lightning_clip.objectives.hashtags import Hashtags
from lightning_clip.objectives.masked_words import MaskedWords
from lightning_clip.objectives.negclip import HardNegatives
from lightning_clip.objectives.pairs import ContrastivePairs
from lightning_clip.objectives.several_texts import SeveralTexts
from lightning_clip.objectives.silc import Silc
from lightning_clip.objectives.slip import Slip
from lightning_clip.objectives.tips import Tips
from lightning_clip.objectives.weighted import WeightedSum, each_objective
from lightning_clip.objectives.words import Words

__all__ = [
    "BagObjective",
    "Captioning",
    "ClipRefine",
    "Coca",
    "ContrastivePairs",
    "DecodingObjective",
    "Detection",
    "FastClip",
    "Flair",
    "HardNegatives",
    "Hashtags",
    "MaskedWords",
    "Objective",
    "SeveralTexts",
    "Silc",
    "Slip",
    "Tips",
    "WeightedSum",
    "Words",
    "build_objective",
    "each_objective",
    "objectives",
]
