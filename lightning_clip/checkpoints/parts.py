"""The list of parts of a checkpoint that ranks wrote: of which step they are, and how each begins, goes on and ends."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from lightning_clip.core.errors import InputError

__all__ = ["check_parts", "is_in_parts", "may_be_replaced", "write_parts"]

_LIST = "parts.json"
_BLOCK = 1 << 20  # bytes of a part that are compared, in three places: another step has other weights everywhere


def write_parts(folder: Path, step: int) -> None:
    """Lists the files of a checkpoint that all ranks have completed.

    Args:
        folder: of the checkpoint.
        step: optimizer steps done when it was written.
    """
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    parts = {name: _print_of(folder / name) for name in names}
    (folder / _LIST).write_text(json.dumps({"global_step": step, "parts": parts}, indent=1))


def check_parts(folder: Path) -> int:
    """The step of a checkpoint in parts, once all of them are there and of that step.

    Raises:
        InputError: a folder without a list, a part that is missing or that another save wrote.
    """
    try:
        listed = json.loads((folder / _LIST).read_text())
        step, parts = int(listed["global_step"]), dict(listed["parts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"checkpoint {str(folder)!r} is not complete: it has no list of its parts ({_LIST}), which is written last. Use an "
            "earlier checkpoint, or copy the whole folder"
        ) from error
    for name, expected in parts.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not path.is_file():
            raise InputError(f"checkpoint {str(folder)!r} is not complete: {name} is missing. Copy the parts of every rank")
        if _print_of(path) != expected:
            raise InputError(
                f"checkpoint {str(folder)!r} is of step {step}, but its part {name} is not the one that was written then: copy "
                "the whole folder of one step, or use another checkpoint"
            )
    return step


def may_be_replaced(path: Path) -> bool:
    """Whether a checkpoint may take the name: nothing is there, a file, an empty folder or another checkpoint in parts."""
    if not path.is_dir():
        return True
    return is_in_parts(path) or not any(path.iterdir())


def is_in_parts(folder: Path) -> bool:
    """Whether a folder is a checkpoint, complete or not, that FSDP2's or DeepSpeed's ranks wrote."""
    return bool({entry.name for entry in folder.iterdir()} & {_LIST, ".metadata", "meta.pt", "checkpoint"})


def _print_of(path: Path) -> list[int | str]:
    """Length in bytes, and a digest of the first, middle and last block."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as stream:
        for place in (0, max(0, size // 2 - _BLOCK // 2), max(0, size - _BLOCK)):
            stream.seek(place)
            digest.update(stream.read(_BLOCK))
    return [size, digest.hexdigest()]
