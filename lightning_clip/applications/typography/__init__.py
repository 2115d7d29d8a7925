"""Words in pictures: the typographic attack, attention heads that read, and models in which these are silent."""

from lightning_clip.applications.typography.attack import Attack
from lightning_clip.applications.typography.heads import HeadStatistics, head_statistics
from lightning_clip.applications.typography.reading_heads import ReadingHeads, Step, find_reading_heads
from lightning_clip.applications.typography.silence import silenced, silenced_model

__all__ = [
    "Attack",
    "HeadStatistics",
    "ReadingHeads",
    "Step",
    "find_reading_heads",
    "head_statistics",
    "silenced",
    "silenced_model",
]
