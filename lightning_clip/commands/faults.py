"""The last resort of the command line: whatever escapes a command becomes one line and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from lightning_clip.core.errors import InputError
from lightning_clip.core.system_errors import reason_of_system

__all__ = ["FAULT", "TRACEBACK", "said"]

FAULT = 70  # the exit code that sysexits.h has for an error in the program itself
TRACEBACK = "LIGHTNING_CLIP_TRACEBACK"
_LONGEST = 2000  # letters of a line
_PACKAGE = Path(__file__).parent.parent


def said(error: Exception) -> int:
    """Prints one line about an error.

    Args:
        error: that ended a command.

    Returns:
        The exit code: 2 for what the user can mend, `FAULT` for what only a programmer can. With LIGHTNING_CLIP_TRACEBACK=1 the
        error is raised again instead.
    """
    if os.environ.get(TRACEBACK):
        raise error
    if isinstance(error, InputError):
        text, code = _one_line(error), 2
    elif (reason := reason_of_system(error)) is not None:
        text, code = " ".join(reason.split()), 2
    else:
        text, code = f"{type(error).__name__}: {_one_line(error)[:300]} ({_place(error)})", FAULT
    print(f"lightning-clip: error: {text}", file=sys.stderr)
    return code


def _place(error: BaseException) -> str:
    """Whose fault it is, and where: a plug-in's if the last line that is no library's stands in one."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(Path(frame.filename))]
    again = f"run with {TRACEBACK}=1 for the traceback"
    if not frames:
        return f"this is a fault of lightning_clip, {again}, and report it"
    path, line = Path(frames[-1].filename), frames[-1].lineno
    if _PACKAGE not in path.parents:
        return f"raised by {path}, line {line}; {again}"
    return f"in {path.relative_to(_PACKAGE.parent)}, line {line}; this is a fault of lightning_clip, {again}, and report it"


def _is_own(path: Path) -> bool:
    """Whether a file is of this package or of a user's, and not of Python's or a library's."""
    if _PACKAGE in path.parents:
        return True
    return not str(path).startswith("<") and path.suffix == ".py" and not _is_library(path)


def _is_library(path: Path) -> bool:
    if {"site-packages", "dist-packages"} & set(path.parts):
        return True
    home = Path(os.__file__).parent
    return home in path.parents


def _one_line(error: BaseException) -> str:
    text = str(error)
    if "Original Traceback (most recent call last)" in text:  # raised in a loader's worker
        text = text.rpartition(f"{type(error).__name__}: ")[2]
    return _shortened(" ".join(text.split())) or type(error).__name__


def _shortened(text: str) -> str:
    """Without the middle of what is too long to be read, such as a value of thousands of letters."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"
