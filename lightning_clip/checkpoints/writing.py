"""`WholeCheckpointIO`: checkpoints that are whole at any moment, written beside their place, synced, then renamed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO
from lightning.pytorch.plugins.io.wrapper import _WrappingCheckpointIO
from lightning.pytorch.strategies import Strategy

from lightning_clip.checkpoints.parts import may_be_replaced
from lightning_clip.core.atomic import beside
from lightning_clip.core.errors import InputError

__all__ = ["WholeCheckpointIO", "write_whole"]


class WholeCheckpointIO(TorchCheckpointIO):
    """Lightning's reading and removing, with a writing that a kill or a full disk does not turn into a loss.

    The file is written beside its place, on the same filesystem, and synced; then it takes the name of the one before, which
    was there until then. Lightning itself writes to TMPDIR and copies over the old file where the two are on different
    filesystems. Every fit of a `ClipModule` uses it (`write_whole`); paths such as s3://... go Lightning's way.

    Raises:
        InputError: no room on the disk, or no right to write there.

    Examples:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "last.ckpt"
        >>> WholeCheckpointIO().save_checkpoint({"global_step": 3}, path)
        >>> WholeCheckpointIO().load_checkpoint(path, weights_only=True)
        {'global_step': 3}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        if storage_options is not None or not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if Path(path).is_dir() and not may_be_replaced(Path(path)):
            raise InputError(f"checkpoint {str(path)!r} would replace a folder of other things: give the name of a file")
        with beside(str(path).removeprefix("file://"), durable=True) as place, place.open("wb", buffering=1 << 20) as stream:
            remembered = _Stream(stream.write)
            try:
                torch.save(checkpoint, remembered)  # type: ignore[arg-type]  # it only writes
                stream.flush()
            except RuntimeError as error:  # torch hides the system's own word
                raise remembered.error or error from error

    def load_checkpoint(self, path: Any, *arguments: Any, **options: Any) -> dict[str, Any]:
        """As Lightning's.

        Raises:
            InputError: the folder of a sharding strategy.
        """
        if Path(str(path)).is_dir():
            raise InputError(
                f"checkpoint {str(path)!r} is a folder, which only the strategy that wrote it reads: make one file of it with "
                f"lightning-clip checkpoint consolidate {path} --output FILE.ckpt"
            )
        found: dict[str, Any] = super().load_checkpoint(path, *arguments, **options)
        return found


class _Stream:
    """What torch writes to; it remembers why a write failed."""

    def __init__(self, write: Callable[[Any], int]) -> None:
        self._write = write
        self.error: OSError | None = None

    def write(self, part: Any) -> int:
        try:
            return self._write(part)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Asked for by torch; what is written is synced at the end."""


class _Around(CheckpointIO):
    """A plugin around another, as `AsyncCheckpointIO` is: Lightning would put its own way of writing inside again."""

    def __init__(self, outer: _WrappingCheckpointIO) -> None:
        self.outer = outer
        outer.checkpoint_io = WholeCheckpointIO()

    def save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        self.outer.save_checkpoint(*arguments, **options)

    def load_checkpoint(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.outer.load_checkpoint(*arguments, **options)
        return found

    def remove_checkpoint(self, path: Any) -> None:
        self.outer.remove_checkpoint(path)

    def teardown(self) -> None:
        self.outer.teardown()


def write_whole(strategy: Strategy) -> None:
    """Has a strategy write its checkpoints through `WholeCheckpointIO`, unless it was given a plugin that writes itself."""
    used = getattr(strategy, "_checkpoint_io", None)  # the property would make one
    if isinstance(used, _WrappingCheckpointIO):
        if type(used.checkpoint_io) in (type(None), TorchCheckpointIO):
            strategy._checkpoint_io = _Around(used)
    elif type(used) in (type(None), TorchCheckpointIO):
        strategy._checkpoint_io = WholeCheckpointIO()
