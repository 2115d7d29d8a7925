"""Segmentation by words: features of each place of a picture, and which of several names it is most like."""

from lightning_clip.applications.segmentation.features import dense_features
from lightning_clip.applications.segmentation.refining import refined
from lightning_clip.applications.segmentation.segment import NOTHING, Segmentation, Segmenter, segment
from lightning_clip.applications.segmentation.windows import window_starts

__all__ = ["NOTHING", "Segmentation", "Segmenter", "dense_features", "refined", "segment", "window_starts"]
