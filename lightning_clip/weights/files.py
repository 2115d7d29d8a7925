"""Files of weights of any library, as tensors by name; nothing in them is executed unless it is allowed."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError

__all__ = ["TRUST", "read_file", "read_weights", "readable_settings", "unreachable"]

log = logging.getLogger(__name__)
# Under which names trainers store the running average of the weights.
_AVERAGES = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
TRUST = "allow_pickle=True, or rewrite it once with lightning-clip export --allow-pickle --format safetensors"


def read_file(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """The content of a .ckpt, .pt, .bin or .safetensors file.

    Raises:
        InputError: a truncated file, another kind of file, or one with Python objects or code while `allow_pickle` is off.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if _is_archive(path):
        return _read_archive(path, allow_pickle)
    content = _read_pickle(path, allow_pickle)
    if isinstance(content, torch.nn.Module):
        content = content.state_dict()
    if not isinstance(content, dict):
        raise InputError(f"pretrained {str(path)!r} holds a {type(content).__name__}, not weights by name")
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise _broken(path) from error


def _read_archive(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """TorchScript's."""
    if not allow_pickle:
        raise InputError(
            f"pretrained {str(path)!r} is a TorchScript archive, which holds code: if you trust its author, set {TRUST}"
        )
    try:
        return dict(torch.jit.load(path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise _broken(path) from error


def _read_pickle(path: Path, allow_pickle: bool) -> Any:
    """torch.save's, old and new."""
    try:
        return torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if not allow_pickle and (zipfile.is_zipfile(path) or _is_pickle(path)):
            raise InputError(
                f"pretrained {str(path)!r} holds Python objects, and reading them may run code: if you trust its author, "
                f"set {TRUST}"
            ) from error
        raise _broken(path) from error
    except (ImportError, AttributeError) as error:  # only while pickles are allowed: theirs name what is not here
        raise InputError(
            f"pretrained {str(path)!r} holds objects of a class that is not here ({error}): install the package that wrote it, "
            "or save its state dict alone there"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _broken(path) from error


def read_weights(path: Path, allow_pickle: bool, averaged: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, taken out of what trainers put around them.

    Args:
        path: of the file.
        allow_pickle: read objects of Python, which may run code.
        averaged: take the running average of the weights (EMA) that trainers such as timm's keep beside them.

    Raises:
        InputError: as `read_file`, a file without tensors, or without an average that is asked for.
    """
    content = read_file(path, allow_pickle)
    averages = [key for key in _AVERAGES if isinstance(content.get(key), Mapping)]
    if averaged and not averages:
        raise InputError(f"pretrained {str(path)!r} holds no averaged weights ({', '.join(_AVERAGES)}): omit averaged")
    if averages and not averaged:
        log.warning(
            "%s also holds a running average of the weights (%s), often the better ones: pretrained {source: ..., averaged: "
            "true} takes it.",
            path,
            averages[0],
        )
    for key in averages if averaged else ("state_dict", "model", "model_state_dict"):
        if isinstance(content.get(key), Mapping):
            content = dict(content[key])
            break
    weights = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not weights:
        raise InputError(f"pretrained {str(path)!r} holds no weights by name: give a state dict of a model")
    return weights


def unreachable(what: str, error: Exception) -> InputError:
    """The error for something that could not be had from the network or a library."""
    reason = " ".join(str(error).split())[:240]
    remedy = (
        "Is the folder complete, with settings that its library understands, and does it name nothing of the network?"
        if Path(re.sub(r"^.*?(hf|local-dir):", "", what)).is_dir()
        else "Without network give a folder or a file on disk in its place: a folder that open_clip or transformers wrote, "
        "hf:FOLDER, or open_clip:NAME/FILE"
    )
    return InputError(f"{what} cannot be loaded ({type(error).__name__}: {reason}). {remedy}")


@contextmanager
def readable_settings(what: str) -> Iterator[None]:
    """Around reading settings that another library wrote, of which any value may be of another kind than it writes.

    Args:
        what: holds them, for messages.

    Raises:
        InputError: one of them cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{what} has a setting of another kind than its library writes ({type(error).__name__}: {reason}): write it again"
        ) from error


def _is_archive(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.partition("/")[2] == "constants.pkl" for name in archive.namelist())


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80"


def _broken(path: Path) -> InputError:
    return InputError(
        f"pretrained {str(path)!r} is no complete file of weights (truncated, or another kind of file): download or "
        "write it again"
    )
