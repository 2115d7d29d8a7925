"""What `--ckpt_path` names: a file, a checkpoint in parts, or a word for one that the run's own folders hold."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_clip.callbacks import SaveOnSignal
from lightning_clip.checkpoints.checking import check_checkpoint
from lightning_clip.checkpoints.parts import is_in_parts
from lightning_clip.core.errors import InputError, existing_path

__all__ = ["check_path", "found_by_word", "is_word"]

log = logging.getLogger(__name__)
_WORDS = ("last", "best", "hpc")
_SHOWN = 5


def is_word(given: str) -> bool:
    """Whether `--ckpt_path` says which checkpoint to look for, and not where it is."""
    return given in _WORDS or given.lower().startswith("registry")


def check_path(given: str) -> Path:
    """The file or folder that was named.

    Args:
        given: a path on this machine.

    Raises:
        InputError: nothing is there, several files or a folder that is no checkpoint.
    """
    if not given.strip():
        raise InputError("--ckpt_path is empty: name a checkpoint's file, say last, or omit it")
    pattern = Path(given).expanduser()
    if any(sign in given for sign in "*?[") and not pattern.exists():
        found = sorted(str(path) for path in Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        said = f"it fits {len(found)}: {_listed(found)}" if found else "and none fits"
        raise InputError(f"--ckpt_path {given!r} must name one checkpoint, {said}")
    path = existing_path(given, "checkpoint")
    if path.is_dir() and not is_in_parts(path):
        inside = sorted(str(file) for file in path.rglob("*.ckpt"))
        hint = f"name one of those in it: {_listed(inside)}" if inside else "and there is none in it"
        raise InputError(f"--ckpt_path {given!r} is a folder that is no checkpoint, {hint}")
    return path


def found_by_word(given: str, trainer: pl.Trainer, command: str) -> str | None:
    """The checkpoint that a word asks for.

    Args:
        given: last, best, hpc, or Lightning's registry:NAME.
        trainer: of the command, with its callbacks.
        command: fit, validate, test or predict.

    Returns:
        Its place; None where `fit` begins anew, since there is no `last` yet.

    Raises:
        InputError: a word for what is not there.
    """
    if given == "best":
        raise InputError(
            "--ckpt_path best is known only to the Trainer that has just trained: name the file, or say last for the newest "
            "last.ckpt of the recipe's ModelCheckpoint"
        )
    if given == "hpc":
        return _of_hpc(trainer)
    if given != "last":
        if not find_spec("litmodels"):
            raise InputError(f"--ckpt_path {given!r} asks Lightning's registry: pip install litmodels, or name a file")
        return given
    found = _newest_last(trainer)
    if found is not None:
        if Path(found).is_file():
            check_checkpoint(Path(found))
        return found
    folders = _listed(sorted(_folders_of_last(trainer)))
    if command != "fit":
        raise InputError(f"--ckpt_path last: there is no last.ckpt in {folders}: name a file, or train first")
    log.warning("--ckpt_path last: there is no last.ckpt in %s yet, so this run begins anew", folders)
    return None


def _newest_last(trainer: pl.Trainer) -> str | None:
    """As Lightning looks for it, and also where a signal's checkpoint stands in a run without ModelCheckpoint."""
    savers = _savers(trainer)
    if any(saver.dirpath is None for saver in savers) and _numbers_its_runs(trainer):
        raise InputError(
            "--ckpt_path last finds nothing where each run has a folder of its own: set dirpath of the recipe's "
            "ModelCheckpoint, or name the file"
        )
    candidates = {path for saver in savers for path in saver._find_last_checkpoints(trainer)}
    candidates |= {f"{folder}/last.ckpt" for folder in _folders_of_last(trainer)}
    written = {}
    for path in candidates:
        files = get_filesystem(path)
        if files.exists(path):
            written[path] = files.modified(path)
    return max(written, key=lambda path: written[path]) if written else None


def _folders_of_last(trainer: pl.Trainer) -> set[str]:
    root = str(trainer.default_root_dir)
    folders = {str(saver.dirpath or Path(root) / "checkpoints") for saver in _savers(trainer)}
    given = {one.folder for one in trainer.callbacks if isinstance(one, SaveOnSignal)} - {None}  # type: ignore[attr-defined]
    own = {str(Path(folder).expanduser()) for folder in given if folder is not None}
    return (folders | own) or {root}


def _savers(trainer: pl.Trainer) -> list[ModelCheckpoint]:
    return [one for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]


def _numbers_its_runs(trainer: pl.Trainer) -> bool:
    """Whether the logger gives each run a folder with a new number or name."""
    logger: Any = trainer.logger
    return logger is not None and all(getattr(logger, name, None) is None for name in ("_version", "_id", "_run_id"))


def _of_hpc(trainer: pl.Trainer) -> str:
    path = trainer._checkpoint_connector._hpc_resume_path
    if path is None:
        root = str(trainer.default_root_dir)
        raise InputError(f"--ckpt_path hpc: there is no hpc_ckpt_NUMBER.ckpt in {root!r}: name a file, or say last")
    if Path(path).is_file():
        check_checkpoint(Path(path))
    return path


def _listed(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return ", ".join(paths[:_SHOWN]) + more
