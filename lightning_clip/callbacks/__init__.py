"""Callbacks that watch a module through its predictor; each is thin and calls metrics, the suite or the report."""

from lightning_clip.callbacks.compute_meter import ComputeMeter
from lightning_clip.callbacks.features import WriteFeatures
from lightning_clip.callbacks.log_examples import LogExamples
from lightning_clip.callbacks.preemption import SaveOnSignal
from lightning_clip.callbacks.progress import Progress
from lightning_clip.callbacks.report import Report
from lightning_clip.callbacks.retrieval import Retrieval
from lightning_clip.callbacks.suite import EvaluationSuite
from lightning_clip.callbacks.zero_shot import ZeroShotClassification

__all__ = [
    "ComputeMeter",
    "EvaluationSuite",
    "LogExamples",
    "Progress",
    "Report",
    "Retrieval",
    "SaveOnSignal",
    "WriteFeatures",
    "ZeroShotClassification",
]
