"""VTAB's sets that TensorFlow prepares: read from CLIP_benchmark's shards alone."""

from __future__ import annotations

from lightning_clip.prompts.sets.known import known_sets, register

__all__: list[str] = []

for _name, _known in known_sets().items():
    if _known.shards and not _known.files:
        register(_name)
