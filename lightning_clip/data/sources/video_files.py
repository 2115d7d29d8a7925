"""Folders of videos: with texts beside them, or with a folder for each class."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import ColumnFile, Columns
from lightning_clip.data.file_tree import FileTree, is_image
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.sources.base import PairSource, pair_sources, recognises
from lightning_clip.data.sources.columns import texts
from lightning_clip.data.sources.row_store import Rows
from lightning_clip.data.text_files import decode_text, lines_of
from lightning_clip.data.videos import check_av, is_video

__all__ = ["VideoFiles", "VideoFolder", "described_videos", "spoken"]

log = logging.getLogger(__name__)
_TEXTS = (".txt", ".caption", ".json")


class VideoFiles(PairSource):
    """Video files with texts or a class each: what folders, MSR-VTT and sets of actions have in common.

    Args:
        tree: where the files are.
        rows: of each video `file`, and `captions` or `label`.
        rule: which frames are looked at.
        class_names: in the order of the labels.
        layout: what was recognised.
    """

    def __init__(
        self,
        tree: FileTree,
        rows: Sequence[Mapping[str, Any]],
        rule: FrameSampling,
        *,
        class_names: Sequence[str] = (),
        layout: str = "",
    ) -> None:
        check_av()
        self.rule, self.class_names, self.layout = rule, class_names, layout
        self._tree, self._rows = tree, Rows([dict(row) for row in rows])

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, index: int) -> tuple[str, ...]:
        return tuple(self._rows[index].get("captions") or ())

    def label(self, index: int) -> int | None:
        found: int | None = self._rows[index].get("label")
        return found

    def place(self, index: int) -> str:
        return str(self._tree.path / self._rows[index]["file"])

    def file(self, index: int) -> ColumnFile:
        """The video of a sample, not read yet."""
        name = self._rows[index]["file"]
        return ColumnFile(name.rpartition(".")[2].lower(), partial(self._tree.read, name), self.rule)

    def __getitem__(self, index: int) -> Pair:
        label = self.label(index)
        return Pair(
            image=None,
            captions=self.captions(index),
            key=str(PurePosixPath(self._rows[index]["file"]).with_suffix("")),
            label=label,
            metadata={} if label is None else {"class_name": self.class_names[label]},
            columns=Columns({"video": self.file(index)}),
        )


@pair_sources.register("videos")
class VideoFolder(VideoFiles):
    """Videos in a folder with all its sub-folders, or in a zip file.

    `clip.mp4` with `clip.txt` beside it (a caption a line), `clip.caption` or `clip.json` (its field `caption`) are pairs;
    videos without a text are omitted and counted. Where no video has one and all are in folders, these are their classes.

    Args:
        path: of the folder or zip file.
        frames: at most so many of each video.
        sampling: "uniform", "head", "tail", or "random" for training, see `FrameSampling`.
        fps: frames a second among which the rule chooses; None for all.
        size: side in pixels of the square in the middle that is kept.

    Raises:
        InputError: no video has a text or a class, a value out of range, or PyAV is not installed.
    """

    def __init__(
        self, path: str, *, frames: int = 12, sampling: str = "uniform", fps: float | None = None, size: int = 224
    ) -> None:
        tree, rule = FileTree(path), FrameSampling(frames, sampling, fps, size)
        names = tree.names()
        videos = [name for name in names if is_video(name)]
        if not videos:
            raise InputError(f"{path!r} holds no video files (mp4, webm, mkv, avi, mov, ...)")
        rows = described_videos(tree, videos, set(names))
        if rows:
            if len(rows) < len(videos):
                log.warning(
                    "%s: omitted %d of %d videos without a text beside them", path, len(videos) - len(rows), len(videos)
                )
            super().__init__(tree, rows, rule, layout=f"{len(rows):,} videos with a text file of the same name beside them")
            return
        if any(len(PurePosixPath(name).parts) < 2 for name in videos):
            raise InputError(f"{path!r} has no video with a text beside it, such as 1.mp4 and 1.txt ({len(videos)} videos)")
        folders = sorted({PurePosixPath(name).parts[0] for name in videos})
        labels = {folder: label for label, folder in enumerate(folders)}
        of_class = [{"file": name, "label": labels[PurePosixPath(name).parts[0]]} for name in videos]
        layout = f"{len(videos):,} videos in one folder for each of {len(folders)} classes"
        super().__init__(tree, of_class, rule, class_names=list(map(spoken, folders)), layout=layout)


def spoken(name: str) -> str:
    """The name of a class as people say it.

    Examples:
        >>> spoken("ApplyEyeMakeup"), spoken("playing_ukulele"), spoken("TaiChi"), spoken("YoYo"), spoken("riding a bike")
        ('apply eye makeup', 'playing ukulele', 'tai chi', 'yo yo', 'riding a bike')
    """
    if " " in name:
        return name
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.replace("_", " ")).lower()


def described_videos(tree: FileTree, videos: Sequence[str], known: set[str]) -> list[dict[str, Any]]:
    """A row, with `file` and `captions`, of each video that has a text of its name beside it.

    Args:
        tree: where the files are.
        videos: their names.
        known: names of all files.
    """
    found = []
    for video in videos:
        stem = PurePosixPath(video).with_suffix("")
        beside = next((f"{stem}{ending}" for ending in _TEXTS if f"{stem}{ending}" in known), None)
        captions = () if beside is None else _READERS[PurePosixPath(beside).suffix](tree.read(beside))
        if captions:
            found.append({"file": video, "captions": list(captions)})
    return found


def _of_json(content: bytes) -> tuple[str, ...]:
    try:
        record = json.loads(decode_text(content))
    except (ValueError, RecursionError):
        return ()
    return texts(record.get("caption")) if isinstance(record, dict) else ()


_READERS: dict[str, Callable[[bytes], tuple[str, ...]]] = {".txt": lines_of, ".caption": lines_of, ".json": _of_json}


@recognises(120)
def _videos(name: str) -> Callable[..., PairSource] | None:
    """A folder of videos in which there are no pictures."""
    path = Path(name).expanduser()
    if not path.is_dir():
        return None
    names = FileTree(name).names()
    return partial(VideoFolder, name) if any(map(is_video, names)) and not any(map(is_image, names)) else None
