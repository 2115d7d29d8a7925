"""Chinese-CLIP's data: `SPLIT_imgs.tsv` (id, base64) and `SPLIT_texts.jsonl`."""

from __future__ import annotations

import base64
import binascii
import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import open as open_with_progress

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.types import Pair
from lightning_clip.data.shards.files import open_files
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.row_store import Rows

__all__ = ["ChineseClipSource"]

log = logging.getLogger(__name__)


@pair_sources.register("chinese_clip")
class ChineseClipSource(PairSource):
    """Images of a `_imgs.tsv`, each with all the texts that a `_texts.jsonl` gives it, read at random where they stand.

    Texts of images that the tsv does not hold, and images without a text, are omitted and counted.

    Args:
        path: the folder, or one of the two files.
        split: such as "train", "valid", "test"; None where the folder holds one split only, or a file was named.

    Raises:
        InputError: files that are missing or belong to no split, or no image with a text.
    """

    def __init__(self, path: str, split: str | None = None) -> None:
        found = existing_path(path, "Chinese-CLIP data")
        if found.is_file():
            found, split = found.parent, found.name.rsplit("_", 1)[0]
        splits = sorted(file.name.removesuffix("_imgs.tsv") for file in found.glob("*_imgs.tsv"))
        if split is None and len(splits) == 1:
            split = splits[0]
        if split not in splits:
            asked = f"has no split {split!r}" if split else "has several splits: give one as split"
            raise InputError(f"folder {str(found)!r} {asked}; {nearest(split or '', splits)}")
        self.path, self.split = path, split
        self._images = str(found / f"{split}_imgs.tsv")
        ids, spans = _lines(Path(self._images))
        texts = _texts(existing_path(found / f"{split}_texts.jsonl", "Chinese-CLIP texts"))
        used = [number for number, name in enumerate(ids) if name in texts]
        if not used:
            raise InputError(f"no image of {self._images!r} has a text in {split}_texts.jsonl: do the files belong together?")
        lost = len(set(texts) - set(ids))
        if lost or len(used) < len(ids):
            log.warning(
                "%s: omitted %d images without text and the texts of %d absent images", path, len(ids) - len(used), lost
            )
        self._spans = spans[used]
        self._rows = Rows([{"id": ids[number], "texts": texts[ids[number]]} for number in used])

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, index: int) -> tuple[str, ...]:
        return tuple(self._rows[index]["texts"])

    def __getitem__(self, index: int) -> Pair:
        row = self._rows[index]
        start, end = self._spans[index].tolist()
        coded = open_files.read(self._images, start, end - start).strip()
        try:
            # Chinese-CLIP writes the alphabet for URLs.
            image = base64.b64decode(coded.replace(b"-", b"+").replace(b"_", b"/") + b"=" * (-len(coded) % 4), validate=True)
        except binascii.Error as error:
            raise ValueError("image is no base64") from error
        return Pair(image=image, captions=tuple(row["texts"]), key=row["id"])


def _lines(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids of the images, and from where to where each one's base64 stands, (N, 2)."""
    ids, spans, at = [], [], 0
    with open_with_progress(path, "rb", description=f"indexing {path.name}") as lines:
        for line in lines:
            name, tab, _ = line.partition(b"\t")
            if tab:
                ids.append(name.decode("utf-8", "replace"))
                spans.append((at + len(name) + 1, at + len(line)))
            at += len(line)
    return ids, np.array(spans, dtype=np.int64).reshape(-1, 2)


def _texts(path: Path) -> dict[str, list[str]]:
    """Image id -> its texts, in the order of the file, each once."""
    found: dict[str, dict[str, None]] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row: Any = json.loads(line) if line.strip() else {"image_ids": [], "text": ""}
                ids, text = row["image_ids"], str(row["text"]).strip()
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f'line {number} of {str(path)!r} has no "text" and "image_ids", as Chinese-CLIP has them: fix the line'
                ) from error
            for name in ids if text else ():
                found.setdefault(str(name), {})[text] = None
    return {name: list(own) for name, own in found.items()}


@recognises(15)
def _chinese_clip(name: str) -> Callable[..., PairSource] | None:
    path = Path(name).expanduser()
    texts = path.is_dir() and any(path.glob("*_imgs.tsv"))
    return partial(ChineseClipSource, name) if texts or path.name.endswith("_imgs.tsv") else None
