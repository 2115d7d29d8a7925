"""Shapes of the weights that a folder or repository of transformers holds, read without the weights themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning_clip.weights.bounds import shapes_of

__all__ = ["stored_shapes"]

_FILES = ("model.safetensors", "pytorch_model.bin")
_LONGEST = 100_000_000  # bytes of an index of files


def stored_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Shapes by name; empty where the files are of another form, which their own reader explains.

    Args:
        name: on the hub, or a folder.
    """
    for file in _FILES:
        if (path := _place(name, file)) is not None:
            return _of_file(path)
        if (index := _place(name, f"{file}.index.json")) is not None:
            parts = [_place(name, part) for part in _parts(index)]
            return {key: shape for part in parts if part is not None for key, shape in _of_file(part).items()}
    return {}


def _place(name: str, file: str) -> Path | None:
    """Where a file of a folder or repository is on this machine."""
    from transformers.utils.hub import cached_file

    if (folder := Path(name)).is_dir():
        return folder / file if (folder / file).is_file() else None
    quiet: dict[str, Any] = dict.fromkeys(
        ("_raise_exceptions_for_missing_entries", "_raise_exceptions_for_connection_errors"), False
    )
    found = cached_file(name, file, **quiet)
    return None if found is None else Path(found)


def _parts(index: Path) -> list[str]:
    """The files that an index names, which must lie beside it."""
    try:
        names = json.loads(index.read_bytes()[:_LONGEST])["weight_map"].values()
        return sorted({part for part in names if Path(part).name == part})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []


def _of_file(path: Path) -> dict[str, tuple[int, ...]]:
    """Of one file; empty if it is broken or holds more than tensors."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as stored:
                return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118  (no dict)
        except (SafetensorError, OSError):
            return {}
    import torch

    try:
        return shapes_of(torch.load(path, map_location="meta", weights_only=True))
    except Exception:  # whatever a file of another kind leads to
        return {}
