"""Tables in one JSON file: a list of rows, COCO's captions, Karpathy's splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.data.text_files import decode_text

__all__ = ["read_json"]

Row = dict[str, Any]


def read_json(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Entries of a JSON file by number, or why one is no row: a list of objects, or a mapping of COCO, Karpathy or pandas.

    COCO: "images" with "id" and "file_name", "annotations" with "image_id" and "caption": a row per image, its captions a list.
    pandas: column -> row's name -> cell, as `DataFrame.to_json` writes.
    Karpathy: "images" with "filename" (in the folder "filepath", if there is one), "split" and "sentences" with "raw".

    Args:
        path: the file.

    Raises:
        InputError: no JSON, or neither of these forms.
    """
    try:
        content = json.loads(decode_text(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise InputError(f"table {str(path)!r} is no JSON ({error}): check the file") from error
    if isinstance(content, list):
        rows: Iterator[Any] = iter(content)
    elif (columns := _columns(content)) is not None:
        rows = columns
    elif isinstance(content, Mapping) and isinstance(content.get("images"), list):
        rows = _coco(content, path) if isinstance(content.get("annotations"), list) else _karpathy(content["images"])
    else:
        fields = f"a mapping of {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else "no list"
        raise InputError(
            f"table {str(path)!r} is {fields}: it must be a list of objects, COCO's captions (images, annotations) or "
            "Karpathy's splits (images with sentences)"
        )
    for number, row in enumerate(rows, start=1):
        yield number, row if isinstance(row, dict) else "is no JSON object: it needs an image name and a caption"


def _columns(content: Any) -> Iterator[Any] | None:
    """Rows of pandas' column -> row's name -> cell; None for anything else."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(cells, Mapping) for cells in content.values()):
        return None
    first = next(iter(content.values()))
    if not first or any(cells.keys() != first.keys() for cells in content.values()):
        return None
    return ({column: cells[name] for column, cells in content.items()} for name in first)


def _coco(content: Mapping[str, Any], path: Path) -> Iterator[Any]:
    """A row per image, with the captions of its annotations in their order."""
    captions: dict[Any, list[str]] = {}
    for entry in content["annotations"]:
        if isinstance(entry, Mapping) and isinstance(entry.get("caption"), str):
            captions.setdefault(entry.get("image_id"), []).append(entry["caption"])
    if not captions:
        raise InputError(f"annotations of {str(path)!r} have no 'caption': take the file with captions, not with boxes")
    for image in content["images"]:
        if not isinstance(image, Mapping):
            yield image
        else:
            own = captions.get(image.get("id"), [])
            yield {**image, "image": image.get("file_name"), "caption": own}


def _karpathy(images: list[Any]) -> Iterator[Any]:
    """A row per image; the name begins with its folder where the file says one, as for COCO."""
    for image in images:
        if not isinstance(image, Mapping):
            yield image
            continue
        names = (image.get("filepath"), image.get("filename"))
        texts = [text.get("raw") for text in image.get("sentences") or () if isinstance(text, Mapping)]
        yield {**image, "image": "/".join(str(name) for name in names if name), "caption": texts}
