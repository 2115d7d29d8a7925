"""Videos of actions: UCF101, HMDB51 and Kinetics as they are unpacked, or any folder with a folder for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.data.file_tree import FileTree
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.sources.base import pair_sources
from lightning_clip.data.sources.rows import TableForm, read_tables
from lightning_clip.data.sources.video_files import VideoFiles, spoken
from lightning_clip.data.text_files import decode_text
from lightning_clip.data.videos import is_video

__all__ = ["VideoClasses"]

_FILE_COLUMNS = ("video", "path", "file", "file_name", "filename", "name", "youtube_id", "video_id")
_LABEL_COLUMNS = ("label", "class", "class_name", "action", "category")


@pair_sources.register("video_classes")
class VideoClasses(VideoFiles):
    """Labelled videos, as zero-shot classification of actions needs them.

    Without a table there is one folder for each class. A csv (Kinetics: `label`, `youtube_id`, `time_start`, `time_end`,
    `split`) names a video and its class a row; files are found by name in any folder below, Kinetics' as
    `ID_000010_000020.mp4` or `ID.mp4`. A txt is a list of UCF101's (`ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi`, with or
    without a number behind). Class names are written as people say them: "apply eye makeup".

    Args:
        path: folder of the videos.
        table: csv or txt that chooses the videos, relative to the folder or not; None takes all in class folders.
        where: column -> value (or list of values) that a row of the csv must have, such as {"split": "test"}.
        frames: at most so many of each video.
        sampling: "uniform", "head", "tail", or "random" for training, see `FrameSampling`.
        fps: frames a second among which the rule chooses; None for all.
        size: side in pixels of the square in the middle that is kept.

    Raises:
        InputError: no video with a class, a table without such columns, or PyAV is not installed.
    """

    def __init__(
        self,
        path: str,
        table: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        frames: int = 12,
        sampling: str = "uniform",
        fps: float | None = None,
        size: int = 224,
    ) -> None:
        tree, rule = FileTree(path), FrameSampling(frames, sampling, fps, size)
        videos = [name for name in tree.names() if is_video(name)]
        if table is None:
            found = [(name, PurePosixPath(name).parts[0]) for name in videos if len(PurePosixPath(name).parts) > 1]
        else:
            place = tree.path / table if (tree.path / table).is_file() else existing_path(table, "table of videos")
            listed = _listed(place) if place.suffix == ".txt" else _rows(place, where or {})
            found = _present(listed, videos)
        if not found:
            raise InputError(
                f"video_classes: {path!r} has no video of a class ({len(videos)} videos): it needs a folder for each class, or "
                "a table whose names are those of the files"
            )
        classes = sorted({name for _, name in found})
        labels = {name: label for label, name in enumerate(classes)}
        rows = [{"file": file, "label": labels[name]} for file, name in found]
        layout = f"{len(rows):,} videos of {len(classes)} classes"
        super().__init__(tree, rows, rule, class_names=list(map(spoken, classes)), layout=layout)


def _present(listed: Sequence[tuple[list[str], str]], videos: Sequence[str]) -> list[tuple[str, str]]:
    """(file, class) of what is listed and there: tables of Kinetics name many videos that are gone."""
    files = {name: name for name in videos}
    files |= {str(PurePosixPath(name).with_suffix("")): name for name in videos}
    files |= {PurePosixPath(name).name: name for name in videos}
    files |= {PurePosixPath(name).stem: name for name in videos}
    found = ((next((files[name] for name in names if name in files), None), label) for names, label in listed)
    return [(file, label) for file, label in found if file is not None]


def _listed(path: Path) -> list[tuple[list[str], str]]:
    """Possible names and class of each line of a list of UCF101's."""
    found = []
    for line in decode_text(path.read_bytes()).splitlines():
        name = line.strip()
        first, _, last = name.rpartition(" ")
        name = first if first and last.isdigit() else name
        if name and len(PurePosixPath(name).parts) > 1:
            found.append(([name], PurePosixPath(name).parts[-2]))
    return found


def _rows(path: Path, where: Mapping[str, Any]) -> list[tuple[list[str], str]]:
    """Possible names and class of each row of a table."""
    rows = read_tables([path], TableForm())
    file = _column(rows[0], _FILE_COLUMNS, path, "the video")
    label = _column(rows[0], _LABEL_COLUMNS, path, "its class")
    for column in where:
        if column not in rows[0]:
            raise InputError(f"video_classes: {str(path)!r} has no column {column!r}: it has {', '.join(rows[0])}")
    found = []
    for row in rows:
        if all(row.get(column) in (value if isinstance(value, list | tuple) else [value]) for column, value in where.items()):
            found.append((_names(row, str(row[file])), str(row[label])))
    return found


def _column(row: Mapping[str, Any], known: Sequence[str], path: Path, what: str) -> str:
    found = next((column for column in known if column in row), None)
    if found is None:
        raise InputError(
            f"video_classes: {str(path)!r} has the columns {', '.join(row)}, none of which names {what}: call it one of "
            f"{', '.join(known[:5])}"
        )
    return found


def _names(row: Mapping[str, Any], name: str) -> list[str]:
    """How the file of a row may be called: Kinetics' have the times of the clip in their names."""
    try:
        start, end = round(float(row["time_start"])), round(float(row["time_end"]))
    except (KeyError, TypeError, ValueError):
        return [name]
    return [f"{name}_{start:06d}_{end:06d}", name]
