"""A model for use: a checkpoint of ours or weights of others arrive, a `ClipModule` in evaluation mode leaves."""

from __future__ import annotations

from pathlib import Path

from lightning_clip.checkpoints.reading import is_ours
from lightning_clip.core.errors import existing_path
from lightning_clip.module.clip_module import ClipModule

__all__ = ["is_name", "open_module"]


def is_name(source: str) -> bool:
    """Whether a library is asked for the weights, and not the disk."""
    return source.startswith(("open_clip:", "hf:"))


def open_module(source: str | Path, *, allow_pickle: bool = False) -> ClipModule:
    """A checkpoint of ours as the class that wrote it, or whatever else `ClipModule.from_pretrained` takes.

    Args:
        source: a .ckpt, `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder or a file of weights.
        allow_pickle: read files that may run code; only if you trust the author.

    Raises:
        InputError: nothing of that name, weights that do not fit, or weights that would have to be downloaded without network.
    """
    source = str(source)
    if not is_name(source):
        kind = "checkpoint" if source.endswith(".ckpt") else "model (a checkpoint, open_clip:NAME/WEIGHTS, hf:NAME or a folder)"
        path = existing_path(source, kind)
        if path.is_file() and (path.suffix == ".ckpt" or is_ours(path)):
            return ClipModule.load_from_checkpoint(path, weights_only=not allow_pickle)
    return ClipModule.from_pretrained(source, allow_pickle=allow_pickle)
