"""Where sets are looked for."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["datasets_folder"]


def datasets_folder() -> Path:
    """Where sets are looked for: the environment variable LIGHTNING_CLIP_DATASETS, or a folder in the user's cache."""
    return Path(os.environ.get("LIGHTNING_CLIP_DATASETS") or "~/.cache/lightning_clip/datasets").expanduser()
