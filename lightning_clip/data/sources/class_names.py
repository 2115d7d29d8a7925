"""Readable names of classes whose folders are numbers or codes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.text_files import decode_text

__all__ = ["NAME_FILES", "read_class_names"]

NAME_FILES = ("class_names.json", "class_names.txt", "classes.txt", "LOC_synset_mapping.txt")


def read_class_names(path: Path | None, folders: Sequence[str]) -> list[str]:
    """A name for each folder.

    Args:
        path: lines "FOLDER name" (with a space, tab or comma between), one name a line in the order of the folders, JSON
            {folder: name} or [name, ...], or ImageNet's {"0": ["n01440764", "tench"]}; None takes the folders' names.
        folders: sorted.

    Raises:
        InputError: a folder without a name.
    """
    if path is None:
        return list(folders)
    try:
        text = decode_text(path.read_bytes())
        found = _of_json(json.loads(text)) if path.suffix == ".json" else _of_lines(text, folders)
    except (ValueError, RecursionError) as error:
        raise InputError(f"class names {str(path)!r} cannot be read ({error}): give a text or JSON file") from error
    if isinstance(found, list):
        if len(found) != len(folders):
            raise InputError(f"{str(path)!r} has {len(found)} names for {len(folders)} class folders: give one for each")
        return found
    missing = [folder for folder in folders if folder not in found]
    if missing:
        raise InputError(f"{str(path)!r} has no name for class folder {missing[0]!r} ({len(missing)} are missing): add it")
    return [found[folder] for folder in folders]


def _of_json(content: Any) -> list[str] | dict[str, str]:
    if isinstance(content, list):
        return [str(name) for name in content]
    if not isinstance(content, Mapping):
        raise ValueError("neither a mapping nor a list")
    pairs = [value if isinstance(value, list) and len(value) == 2 else (key, value) for key, value in content.items()]
    return {str(key): str(name[0] if isinstance(name, list) else name) for key, name in pairs}


def _of_lines(text: str, folders: Sequence[str]) -> list[str] | dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    known = set(folders)
    by_folder = {}
    for line in lines:
        folder, *rest = re.split(r"[\s,]+", line, maxsplit=1)
        if folder in known and rest:
            by_folder[folder] = next(csv.reader(rest), rest)[0].strip().strip('"')
    return by_folder if by_folder else lines
