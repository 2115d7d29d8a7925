"""Folders of pictures and masks, as PASCAL VOC, PASCAL Context, ADE20K and COCO-Stuff are handed out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lightning_clip.core.errors import InputError, existing_path, nearest
from lightning_clip.core.types import Pair
from lightning_clip.data.masks import BACKGROUND, UNLABELLED, MaskedSource
from lightning_clip.data.sources.base import pair_sources

__all__ = ["LAYOUTS", "Layout", "MaskedFolders"]

_VOC = (
    "aeroplane bicycle bird boat bottle bus car cat chair cow | dining table | dog horse motorbike person | potted plant | "
    "sheep sofa train | television monitor"
)
# Places in COCO's list of 182 things and stuff that no picture has.
_COCO_GAPS = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_PICTURES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Layout:
    """Where a set has its pictures and masks, and what the numbers in masks mean.

    Args:
        pictures: folder, with {split}.
        masks: folder, with {split}.
        listed: file that lists the names of a split, with {split}; empty where the folder is the split.
        first: number of the first class.
        background: numbers of what belongs to no class.
        endings: of masks' file names; the first that is there counts.
        names: files beside the folders that may hold the class names.
        known: class names, where everyone has the same.
        gaps: numbers that no mask has, counted from `first`.
    """

    pictures: str
    masks: str
    listed: str = ""
    first: int = 1
    background: tuple[int, ...] = ()
    endings: tuple[str, ...] = (".png",)
    names: tuple[str, ...] = ("labels.txt",)
    known: tuple[str, ...] = ()
    gaps: tuple[int, ...] = ()


def _words(text: str) -> tuple[str, ...]:
    """Words one by one, or several between bars as one."""
    parts = text.split("|")
    return tuple(name for place, part in enumerate(parts) for name in ([part.strip()] if place % 2 else part.split()) if name)


LAYOUTS = {
    "voc": Layout("JPEGImages", "SegmentationClass", "ImageSets/Segmentation/{split}.txt", background=(0,), known=_words(_VOC)),
    "context": Layout(
        "JPEGImages",
        "SegmentationClassContext",
        "ImageSets/SegmentationContext/{split}.txt",
        background=(0,),
        names=("59_labels.txt", "labels.txt"),
    ),
    "ade20k": Layout("images/{split}", "annotations/{split}", names=("objectInfo150.txt", "labels.txt")),
    "coco_stuff": Layout(
        "images/{split}2017", "annotations/{split}2017", first=0, endings=("_labelTrainIds.png", ".png"), gaps=_COCO_GAPS
    ),
}


@pair_sources.register("masks")
class MaskedFolders(MaskedSource):
    """Pictures with masks of classes in the folders of a known set.

    Args:
        path: of the set: VOC2012 for VOC and Context, ADEChallengeData2016, or COCO's folder.
        layout: "voc", "context", "ade20k" or "coco_stuff".
        split: as the set calls it: "val" or "train", for ADE20K "validation" or "training".

    The class names are those of the set's own list (ADE20K's `objectInfo150.txt`, or `labels.txt` with "7: car" or bare names,
    one a line), VOC's are known. Without them an evaluation set needs `class_names`, in the order of the masks' numbers.

    Raises:
        InputError: an unknown layout, a folder or list that is missing, or pictures without mask.
    """

    def __init__(self, path: str, layout: str, split: str = "val") -> None:
        if layout not in LAYOUTS:
            raise InputError(f"masks layout {layout!r} is not known: {nearest(layout, LAYOUTS)}")
        self.root, self.split, self.kind = existing_path(path, "masks path"), split, LAYOUTS[layout]
        self.layout = f"pictures and masks as {layout} has them"
        pictures = existing_path(self.root / self.kind.pictures.format(split=split), f"pictures of {layout}")
        masks = existing_path(self.root / self.kind.masks.format(split=split), f"masks of {layout}")
        self.files = self._files(pictures, masks)
        if not self.files:
            raise InputError(f"{str(pictures)!r} has no pictures with a mask in {str(masks)!r}: is {split!r} the split?")
        self.class_names = self._names()
        self._numbers = self._table()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Pair:
        picture, mask = self.files[index]
        return Pair(picture.read_bytes(), (), key=picture.stem, metadata={"mask": str(mask)})

    def place(self, index: int) -> str:
        return str(self.files[index][0])

    def mask(self, index: int) -> Tensor:
        """int64 (H, W): indices of `class_names`, `BACKGROUND` or `UNLABELLED`.

        Raises:
            InputError: a file that is no mask, or one with a number that is no class.
        """
        path = self.files[index][1]
        try:
            with Image.open(path) as opened:
                if opened.mode not in ("P", "L"):
                    raise InputError(f"mask {str(path)!r} has mode {opened.mode}: masks have one number a pixel, not colours")
                numbers = np.array(opened)
        except (OSError, SyntaxError, ValueError) as error:
            raise InputError(f"mask {str(path)!r} cannot be read: {error}") from error
        plain = path.name.endswith("_labelTrainIds.png")
        found = torch.from_numpy(self._numbers[int(plain)][numbers])  # (H, W)
        if (found < BACKGROUND).any():
            wrong = int(numbers[(found < BACKGROUND).numpy()].max())
            raise InputError(
                f"mask {str(path)!r} has number {wrong}, which is none of {len(self.class_names)} classes: give class_names in "
                "the order of the masks"
            )
        return found

    def _files(self, pictures: Path, masks: Path) -> list[tuple[Path, Path]]:
        if self.kind.listed:
            listed = existing_path(self.root / self.kind.listed.format(split=self.split), "list of the split")
            stems = listed.read_text("utf-8").split()
        else:
            stems = sorted(path.stem for path in pictures.iterdir() if path.suffix.lower() in _PICTURES)
        return [(_found(pictures, stem, _PICTURES), _found(masks, stem, self.kind.endings)) for stem in stems]

    def _names(self) -> list[str]:
        for name in self.kind.names:
            if (self.root / name).is_file():
                return _read_names(self.root / name, bool(self.kind.gaps))
        return list(self.kind.known)

    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of masks -> classes (256,): as the set has them, and where the gaps are closed."""
        classes = len(self.class_names) or 255  # of any number where nobody knows the names
        tables = []
        for gaps in (self.kind.gaps, ()):
            table = np.full(256, BACKGROUND - 1, dtype=np.int64)
            numbers = [number for number in range(255 - self.kind.first) if number not in gaps][:classes]
            table[np.array(numbers) + self.kind.first] = np.arange(len(numbers))
            table[: self.kind.first] = UNLABELLED
            table[list(self.kind.background)] = BACKGROUND
            table[255] = UNLABELLED
            tables.append(table)
        return tables[0], tables[1]


def _found(folder: Path, stem: str, endings: Sequence[str]) -> Path:
    for ending in endings:
        if (path := folder / f"{stem}{ending}").is_file():
            return path
    raise InputError(f"{str(folder / stem)!r} is missing with any of the endings {', '.join(endings)}: is the set whole?")


def _read_names(path: Path, with_gaps: bool) -> list[str]:
    """Names from the files that sets bring: "7: car" a line, a table of tabs whose last column has synonyms, or bare names."""
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    if lines and "\t" in lines[0]:
        return [line.split("\t")[-1].split(",")[0].strip() for line in lines[1:]]  # ADE20K: ..., "building, edifice"
    names = [re.sub(r"^\s*\d+\s*:\s*", "", line).strip() for line in lines]
    names = [name for name in names if name not in ("unlabeled", "background", "empty")]
    if with_gaps and len(names) == 182:  # COCO's list has those that no picture shows
        return [name for number, name in enumerate(names) if number not in _COCO_GAPS]
    return names
