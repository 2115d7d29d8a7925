"""MSR-VTT (Xu et al. 2016) as it is published for retrieval: clips of the web with twenty captions each."""

from __future__ import annotations

import json
import logging
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.file_tree import FileTree
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.sources.base import pair_sources
from lightning_clip.data.sources.rows import TableForm, read_tables
from lightning_clip.data.sources.video_files import VideoFiles
from lightning_clip.data.text_files import decode_text
from lightning_clip.data.videos import is_video

__all__ = ["MsrVtt"]

log = logging.getLogger(__name__)
_LISTS = {"test": "MSRVTT_JSFUSION_test.csv", "train": "MSRVTT_train.9k.csv", "train_7k": "MSRVTT_train.7k.csv"}
_CAPTIONS = "MSRVTT_data.json"


@pair_sources.register("msrvtt")
class MsrVtt(VideoFiles):
    """MSR-VTT from a folder with the files of the split 1k-A (Yu et al. 2018) and the videos in it or below it.

    "test" are the 1,000 clips of `MSRVTT_JSFUSION_test.csv`, each with the one sentence that the split gives it; "train" the
    9,000 of `MSRVTT_train.9k.csv`, "train_7k" the 7,010 of `MSRVTT_train.7k.csv`, with all their captions from
    `MSRVTT_data.json`, of which training draws one each time. Videos are `video0.mp4`, ... in any folder below.

    Args:
        path: the folder.
        split: "test", "train" or "train_7k".
        frames: at most so many of each video.
        sampling: "uniform", "head", "tail", or "random" for training, see `FrameSampling`.
        fps: frames a second among which the rule chooses; 1 as in CLIP4Clip.
        size: side in pixels of the square in the middle that is kept.

    Raises:
        InputError: an unknown split, a file of the split or a video of the test that is missing, or PyAV is not installed.
    """

    def __init__(
        self,
        path: str,
        split: str = "test",
        *,
        frames: int = 12,
        sampling: str = "uniform",
        fps: float | None = 1.0,
        size: int = 224,
    ) -> None:
        if split not in _LISTS:
            raise InputError(f"msrvtt: split {split!r} must be one of {', '.join(_LISTS)}")
        tree, rule = FileTree(path), FrameSampling(frames, sampling, fps, size)
        files = {PurePosixPath(name).stem: name for name in tree.names() if is_video(name)}
        captions = _test_captions(tree.path) if split == "test" else _train_captions(tree.path, split)
        missing = [video for video in captions if video not in files]
        if missing and (split == "test" or len(missing) == len(captions)):
            raise InputError(
                f"msrvtt: {len(missing):,} of {len(captions):,} videos of split {split!r} are not below {path!r} (the first: "
                f"{missing[0]}.mp4): give the folder that holds them and {_LISTS[split]}"
            )
        if missing:
            log.warning("msrvtt: omitted %d of %d videos that are not below %s", len(missing), len(captions), path)
        rows = [{"file": files[video], "captions": found} for video, found in captions.items() if video in files]
        super().__init__(tree, rows, rule, layout=f"MSR-VTT, split {split} of {len(rows):,} videos")


def _test_captions(folder: Path) -> dict[str, list[str]]:
    """Video -> the sentence that the test split gives it."""
    found: dict[str, list[str]] = {}
    for row in _table(folder, _LISTS["test"], ("video_id", "sentence")):
        found.setdefault(row["video_id"], []).append(row["sentence"])
    return found


def _train_captions(folder: Path, split: str) -> dict[str, list[str]]:
    """Video -> all its captions."""
    found: dict[str, list[str]] = {row["video_id"]: [] for row in _table(folder, _LISTS[split], ("video_id",))}
    path = _below(folder, _CAPTIONS)
    try:
        sentences = json.loads(decode_text(path.read_bytes()))["sentences"]
        for sentence in sentences:
            if sentence["video_id"] in found:
                found[sentence["video_id"]].append(sentence["caption"])
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"msrvtt: {str(path)!r} is no MSRVTT_data.json ({error}): it needs sentences with video_id") from error
    return {video: captions for video, captions in found.items() if captions}


def _table(folder: Path, name: str, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    path = _below(folder, name)
    rows = list(read_tables([path], TableForm()))
    for column in columns:
        if column not in rows[0]:
            raise InputError(f"msrvtt: {str(path)!r} has no column {column!r}: it has {', '.join(rows[0])}")
    return rows


def _below(folder: Path, name: str) -> Path:
    """A file in the folder, or in one of its folders."""
    places = [folder / name, *sorted(folder.glob(f"*/{name}"))] if folder.is_dir() else []
    return next((place for place in places if place.is_file()), None) or existing_path(folder / name, "msrvtt: file")
