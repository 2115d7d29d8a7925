"""Captions for benchmarks: Flickr8k's where `LIGHTNING_CLIP_DATA` names the folder, otherwise their lengths."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path


def flickr8k_captions() -> list[str] | None:
    """All English captions, or None where the data is absent."""
    table = Path(os.environ.get("LIGHTNING_CLIP_DATA", "")) / "flickr8k" / "captions.jsonl"
    if not table.is_file():
        return None
    return [caption for line in table.read_text().splitlines() for caption in json.loads(line)["en"]]


def lengths_like_flickr8k(count: int) -> list[int]:
    """Numbers of tokens distributed as those of Flickr8k's captions: 14 on average, 26 at the 99th percentile."""
    generator = random.Random(0)
    return [max(5, min(42, round(generator.gauss(14, 4.5)))) for _ in range(count)]
