"""Errors of Lightning's own parts on the Trainer's commands, in one line each with the remedy."""

from __future__ import annotations

import re
import traceback
from typing import Any

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.training.lost_ranks import is_lost_rank

__all__ = ["explained"]

# Lightning's files that check what the Trainer is given, and raise in words of their own.
_OF_SETTINGS = (
    "/pytorch/trainer/connectors/",
    "/pytorch/trainer/setup.py",
    "/pytorch/accelerators/",
    "/pytorch/loops/fit_loop.py",
    "/fabric/utilities/device_parser.py",
    "/fabric/accelerators/",
)


def explained(error: Exception, checkpoint: Any = None) -> InputError | None:
    """What a user can do about an error of the Trainer, its strategies, loggers and callbacks.

    Args:
        error: that ended the command.
        checkpoint: what --ckpt_path says, if anything.

    Returns:
        The error to raise in its place, None where nothing better is known.
    """
    text = " ".join(str(error).split())
    if is_lost_rank(error):
        return InputError(text)
    if found := re.search(r"invalid strategy name: `strategy='?([^`']*)'?`", text):
        return InputError(f"unknown strategy {found[1]!r}: {_nearest_strategy(found[1])}")
    if found := re.search(r"[Ee]arly stopping conditioned on metric `([^`]*)` which is not available", text):
        return InputError(
            f"EarlyStopping asks for {found[1]!r}, which is not measured yet or has another name: let a validation come before "
            f"(trainer.val_check_interval, trainer.limit_val_batches), or set its strict: false{_known_metrics(text)}"
        )
    if found := re.search(r"ModelCheckpoint\(monitor='([^']*)'\) could not find the monitored key", text):
        return InputError(f"ModelCheckpoint monitors {found[1]!r}, which is not measured{_known_metrics(text)}")
    if _lacks_logger(error, text):
        found = re.search(r"The '([\w-]+)' distribution|Requirement '([\w-]+)|No module named '(\w+)|`([\w-]+)`", text)
        name = getattr(error, "name", None) or (next(filter(None, found.groups())) if found else "PACKAGE")
        return InputError(
            f"the recipe's logger needs a package that is not installed: pip install {name}, or set trainer.logger"
        )
    if isinstance(error, ZeroDivisionError) and _passed(error, "training_epoch_loop.py"):
        return InputError("trainer.accumulate_grad_batches 0 must be a whole number >= 1")
    if isinstance(error, ValueError | TypeError | ModuleNotFoundError) and _raised_in(error, *_OF_SETTINGS):
        return InputError(f"the Trainer does not take these settings: {text.removesuffix('.')}")
    if checkpoint is not None and _passed(error, "checkpoint_connector.py", "/checkpointing.py", "strategies/strategy.py"):
        if isinstance(error, OSError | MemoryError) or "state_dict" in text:
            return None
        return InputError(
            f"checkpoint {str(checkpoint)!r} cannot be gone on with ({type(error).__name__}: {text[:200]}): it is broken, or "
            "was written under other settings"
        )
    return None


def _lacks_logger(error: BaseException, text: str) -> bool:
    """Whether a logger's package is not installed."""
    absent = isinstance(error, ModuleNotFoundError) or "DistributionNotFound" in text or "RequirementNotFound" in text
    return absent and (_passed(error, "/loggers/") or re.search(r"class_path '[\w.]*[lL]ogger\w*'", text) is not None)


def _nearest_strategy(name: str) -> str:
    from lightning.pytorch.strategies import StrategyRegistry

    plain = [known for known in StrategyRegistry.available_strategies() if "deepspeed" not in known or "clip" in known]
    return nearest(name, [known for known in plain if not known.startswith("fsdp")])


def _known_metrics(text: str) -> str:
    """The metrics that there are, as Lightning lists them."""
    listed = re.search(r"(?:any of the following: |among metrics: |HINT: Did you call .*?)[`\[](.*?)[`\]]", text)
    names = listed[1].replace("`", "").strip() if listed else ""
    return f". There are: {names}" if names else ""


def _raised_in(error: BaseException, *files: str) -> bool:
    """Whether an error was raised by a file, told by a part of its path."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and any(part in frames[-1].filename for part in files)


def _passed(error: BaseException, *files: str) -> bool:
    """Whether an error came through a file, told by a part of its path."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(part in frame.filename for frame in frames for part in files)
