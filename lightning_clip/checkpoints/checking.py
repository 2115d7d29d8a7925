"""What a checkpoint must hold before a Trainer goes on with it, checked without running anything of it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError

__all__ = ["CLASS_KEY", "check_checkpoint", "check_content"]

CLASS_KEY = "lightning_clip_class"
_KINDS: dict[str, tuple[type, ...]] = {
    "epoch": (int,),
    "global_step": (int,),
    "pytorch-lightning_version": (str,),
    "loops": (Mapping,),
    "callbacks": (Mapping,),
    "optimizer_states": (list, tuple),
    "lr_schedulers": (list, tuple),
    "hyper_parameters": (Mapping,),
    CLASS_KEY: (str,),
}
_GIVE = "give one that `lightning-clip fit` or a Trainer with a ClipModule wrote"


def check_checkpoint(path: Path) -> None:
    """Refuses a file that a Trainer could not go on with; nothing in it is executed.

    Args:
        path: of a file.

    Raises:
        InputError: no checkpoint, one that is cut off, one of another program, or one with Python objects.
    """
    import torch

    where = f"checkpoint {str(path)!r}"
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{where} holds Python objects, or is no checkpoint: reading them may run code, so they are refused; {_GIVE}"
        ) from error
    except Exception as error:  # torch raises of every kind on bytes that are none of its own
        raise InputError(f"{where} is no complete checkpoint (truncated, or another kind of file): {_GIVE}") from error
    check_content(content, where)


def check_content(content: Any, where: str) -> None:
    """Refuses a mapping that is no checkpoint of a `ClipModule`.

    Args:
        content: what a file holds.
        where: the file, for messages.

    Raises:
        InputError: parts of another kind than Lightning writes, or none of ours.
    """
    from torch import Tensor

    if not isinstance(content, Mapping) or CLASS_KEY not in content:
        raise InputError(f"{where} was not written by a ClipModule: {_GIVE}, or begin with its weights (pretrained: FILE)")
    for key, kinds in _KINDS.items():
        if key in content and (not isinstance(content[key], kinds) or isinstance(content[key], bool)):
            raise InputError(f"{where} is broken: its {key} is a {type(content[key]).__name__}. {_GIVE.capitalize()}")
    state = content.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise InputError(f"{where} is broken: it holds no weights by name. {_GIVE.capitalize()}")
    if other := next(
        (name for name, value in state.items() if name.startswith("model.") and not isinstance(value, Tensor)), None
    ):
        raise InputError(f"{where} is broken: its {other} is no tensor. {_GIVE.capitalize()}")


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"
