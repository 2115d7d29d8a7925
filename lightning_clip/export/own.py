"""Our own formats: a checkpoint or a folder that `export` wrote arrives, `Pretrained` leaves."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from lightning_clip.adapt.partial import BASE_KEY
from lightning_clip.checkpoint import CLASS_KEY, is_in_parts
from lightning_clip.errors import InputError
from lightning_clip.export.pretrained import Pretrained, Source

__all__ = ["ARGUMENTS", "open_checkpoint", "read_file"]

# Of ClipModule's, those that say what the towers are and how they are fed.
ARGUMENTS = ("image_encoder", "text_encoder", "embed_dim", "loss", "projection", "tokenizer", "transform")


def open_checkpoint(path: Path, source: Source) -> Pretrained:
    """A .ckpt that Lightning wrote of a `ClipModule` or a subclass."""
    if path.is_dir():
        remedy = (
            f"make one file of it with lightning-clip checkpoint consolidate {path} --output FILE.ckpt"
            if is_in_parts(path)
            else "name a .ckpt in it, or a folder that open_clip, transformers or lightning-clip export wrote"
        )
        raise InputError(f"pretrained {str(path)!r} is a folder without weights that can be read: {remedy}")
    content = read_file(path, source.allow_pickle)
    if CLASS_KEY not in content:
        raise InputError(
            f"pretrained {str(path)!r} is no checkpoint of ours: name the architecture before the file, as in "
            f"open_clip:ViT-B-32/{path.name}"
        )
    settings = content["hyper_parameters"]
    if BASE_KEY in content or any(".lora_" in key for key in content["state_dict"]):
        raise InputError(
            f"pretrained {str(path)!r} holds adapters or only what was trained: make whole weights of it with "
            f"lightning-clip checkpoint merge {path} WHOLE.ckpt"
        )
    weights = {key.removeprefix("model."): value for key, value in content["state_dict"].items() if key.startswith("model.")}
    return Pretrained(str(path), {key: settings.get(key) for key in ARGUMENTS}, weights)


def read_file(path: Path, allow_pickle: bool) -> dict[str, Any]:
    """The content of a .ckpt, .pt, .bin or .safetensors file.

    Raises:
        InputError: a truncated file, another kind of file, or one with Python objects while `allow_pickle` is off.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"pretrained {str(path)!r} is no complete safetensors file ({error}): download or write it again"
            ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if not allow_pickle and (zipfile.is_zipfile(path) or _is_pickle(path)):
            raise InputError(
                f"pretrained {str(path)!r} holds Python objects, and reading them may run code: if you trust its author, "
                "set allow_pickle=True"
            ) from error
        raise _broken(path) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        raise _broken(path) from error
    if not isinstance(content, dict):
        raise InputError(f"pretrained {str(path)!r} holds a {type(content).__name__}, not weights by name")
    return content


def _is_pickle(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(1) == b"\x80"


def _broken(path: Path) -> InputError:
    return InputError(
        f"pretrained {str(path)!r} is no complete file of weights (truncated, or another kind of file): download or "
        "write it again"
    )
