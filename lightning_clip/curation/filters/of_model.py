"""What filters that ask a model have in common: a checkpoint, opened once in each process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from lightning_clip.core.errors import existing_path
from lightning_clip.curation.filters.base import Filter, Looked

if TYPE_CHECKING:
    from lightning_clip.module.clip_module import ClipModule

__all__ = ["ModelFilter"]


class ModelFilter(Filter):
    """A filter with a model's judgement.

    Args:
        checkpoint: of ours, or published weights: `open_clip:NAME/TAG_OR_FILE`, `hf:NAME_OR_FOLDER`, a folder or a file.
        batch_size: images at a time.
        device: "auto" takes a GPU if there is one.

    Raises:
        InputError: no such checkpoint.
    """

    def __init__(self, checkpoint: str, batch_size: int = 64, device: str = "auto") -> None:
        named = checkpoint.startswith(("open_clip:", "hf:"))
        # Tells a file from another under the same name.
        self.written = 0 if named else existing_path(checkpoint, "checkpoint").stat().st_mtime_ns
        self.checkpoint, self.batch_size, self.device = checkpoint, batch_size, device
        self._loaded: ClipModule | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": None}  # each process loads its own

    def batches(self, samples: Sequence[Looked]) -> Iterator[Sequence[Looked]]:
        """Samples, `batch_size` at a time.

        Args:
            samples: any number.
        """
        for start in range(0, len(samples), self.batch_size):
            yield samples[start : start + self.batch_size]

    def module(self) -> ClipModule:
        """The model, opened when it is first asked for."""
        if self._loaded is None:
            from lightning_clip.loading import open_module

            wanted = "cuda" if self.device == "auto" and torch.cuda.is_available() else self.device.replace("auto", "cpu")
            self._loaded = open_module(self.checkpoint).to(wanted)
        return self._loaded
