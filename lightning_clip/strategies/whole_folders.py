"""Checkpoints in parts that are whole at any moment: all ranks write beside the place, then one gives the folder its name."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint.api import CheckpointException

from lightning_clip.checkpoints.parts import may_be_replaced, write_parts
from lightning_clip.core.atomic import place_beside, remove_leftovers, safe_name, sync, sync_entry, take_place
from lightning_clip.core.errors import InputError
from lightning_clip.core.system_errors import reason_of_writing

__all__ = ["whole_folder"]


@contextmanager
def whole_folder(strategy: Any, path: str | Path, step: int) -> Iterator[Path]:
    """A folder into which each rank writes its part, and which takes the name `path` once all have done so.

    The checkpoint that had the name is there until then. Called on all ranks alike.

    Args:
        strategy: of the run; asked for barriers and ranks.
        path: of the checkpoint to be; that of the first rank counts.
        step: optimizer steps done.

    Raises:
        InputError: on all ranks, where a folder of other things has the name, or one of them could not write.
    """
    writer = f"{os.getpid()}@{safe_name(socket.gethostname())}"
    target, writer = strategy.broadcast((str(path), writer))
    target = Path(target).expanduser()
    place = place_beside(target, writer)
    problem = _prepared(strategy, target, place)
    if not strategy.reduce_boolean_decision(problem is None, all=True):
        raise problem or InputError(f"checkpoint {str(target)!r} cannot be written: the first rank says why")
    failure: BaseException | None = None
    try:
        yield place
        if strategy.local_rank == 0:  # what the ranks of a machine wrote is in that machine's memory
            sync(place)
    except (Exception, CheckpointException) as error:
        failure = error
    if strategy.reduce_boolean_decision(failure is None, all=True):
        failure = _named(strategy, place, target, step)
        if strategy.reduce_boolean_decision(failure is None, all=True):
            return
    if strategy.is_global_zero:
        shutil.rmtree(place, ignore_errors=True)
    if isinstance(failure, InputError):
        raise failure
    reason = failure and reason_of_writing(failure, target)
    if reason:
        raise InputError(f"checkpoint {str(target)!r} cannot be written: {reason}") from failure
    raise failure or InputError(f"checkpoint {str(target)!r} cannot be written: another rank says why")


def _prepared(strategy: Any, target: Path, place: Path) -> InputError | None:
    """Makes the place, on the first rank; what stands against it."""
    if not strategy.is_global_zero:
        return None
    if not may_be_replaced(target):
        return InputError(f"checkpoint {str(target)!r} would replace a folder of other things: give another name")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
    except OSError as error:
        return InputError(f"checkpoint {str(target)!r} cannot be written: {reason_of_writing(error, target) or error}")
    return None


def _named(strategy: Any, place: Path, target: Path, step: int) -> Exception | None:
    """Lists the parts and gives the folder its name, on the first rank; what went wrong."""
    if not strategy.is_global_zero:
        return None
    try:
        write_parts(place, step)
        sync(place)
        take_place(place, target)
        sync_entry(target.parent)
    except OSError as error:
        return error
    return None
