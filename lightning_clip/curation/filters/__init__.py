"""Filters by name; importing this registers those that are built in."""

from lightning_clip.curation.filters.base import Filter, Looked, pair_filters
from lightning_clip.curation.filters.concept import CONCEPTS, Concept
from lightning_clip.curation.filters.pictures import Aspect, Size
from lightning_clip.curation.filters.score import Score
from lightning_clip.curation.filters.texts import CaptionLength, Language

__all__ = ["CONCEPTS", "Aspect", "CaptionLength", "Concept", "Filter", "Language", "Looked", "Score", "Size", "pair_filters"]
