"""Curation: a noisy source -> the pairs worth training on, and a report of every drop."""

from lightning_clip.curation.curate import Curation, curate
from lightning_clip.curation.executors import Executor, OnRay, Processes, executors
from lightning_clip.curation.filters import Filter, Looked, pair_filters
from lightning_clip.curation.settings import Balance, CurationSettings, Duplicates, FrequentEntries

__all__ = [
    "Balance",
    "Curation",
    "CurationSettings",
    "Duplicates",
    "Executor",
    "Filter",
    "FrequentEntries",
    "Looked",
    "OnRay",
    "Processes",
    "curate",
    "executors",
    "pair_filters",
]
