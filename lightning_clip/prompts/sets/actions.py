"""UCF101 and Kinetics-700 as pictures: the middle frame of each video, as the paper takes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lightning_clip.core.types import Pair
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.of_classes import OfClasses
from lightning_clip.data.sources import PairSource
from lightning_clip.data.sources.video_classes import VideoClasses
from lightning_clip.data.videos import read_video
from lightning_clip.prompts.evaluation_sets import EvaluationSet
from lightning_clip.prompts.sets.foldered import class_folders, files_of_folders, first_folder
from lightning_clip.prompts.sets.known import register
from lightning_clip.prompts.sets.lazy import LazySource
from lightning_clip.prompts.sets.paper_words import in_the_papers_words
from lightning_clip.prompts.sets.templates import SET_TEMPLATES

__all__ = ["MiddleFrames"]

# The first, the middle and the last frame; no tower of the paper sees more than 448 pixels.
_SAMPLING = FrameSampling(frames=3, size=448)


class MiddleFrames(PairSource):
    """The frame in the middle of each of some labelled videos.

    Args:
        path: folder of the videos.
        settings: of `VideoClasses`, such as the table that lists a split.
    """

    def __init__(self, path: str, **settings: Any) -> None:
        self._videos = VideoClasses(path, **settings)
        self.class_names = self._videos.class_names

    def __len__(self) -> int:
        return len(self._videos)

    def __getitem__(self, index: int) -> Pair:
        pair = self._videos[index]
        frames = read_video(self._videos.file(index).content(), _SAMPLING)  # (T, 3, S, S), fewer than 3 of a shorter video
        return Pair(frames[len(frames) // 2], (), pair.key, pair.label)

    def label(self, index: int) -> int | None:
        """The class of a video."""
        return self._videos.label(index)

    def captions(self, index: int) -> tuple[str, ...]:
        """None: videos have labels only."""
        return ()


def _ucf101(place: Path) -> EvaluationSet:
    """UCF-101/CLASS/*.avi with ucfTrainTestlist/testlist01.txt and trainlist01.txt."""
    videos, lists = str(first_folder(place, "UCF-101", "videos")), first_folder(place, "ucfTrainTestlist")
    test = MiddleFrames(videos, table=str(lists / "testlist01.txt"))
    train = LazySource(partial(_training, videos, str(lists / "trainlist01.txt"), test.class_names))
    return EvaluationSet(test, in_the_papers_words("ucf101", test.class_names), SET_TEMPLATES["ucf101"], train)


def _training(videos: str, table: str | None, class_names: Sequence[str]) -> PairSource:
    return OfClasses(MiddleFrames(videos, table=table), class_names, "train")


def _kinetics700(place: Path) -> EvaluationSet:
    """val/CLASS/*.mp4 and train/ likewise, or pictures of the middle frames in such folders."""
    folder = first_folder(place, "val", "validate", "test")
    names = in_the_papers_words("kinetics700", folders := class_folders(folder))
    labels = {name: number for number, name in enumerate(folders)}
    pictures = any(path.suffix.lower() in (".jpg", ".jpeg", ".png") for path in (folder / folders[0]).iterdir())
    if pictures:
        read = partial(files_of_folders, labels=labels, names=names)
        return EvaluationSet(read(folder), names, SET_TEMPLATES["kinetics700"], LazySource(partial(read, place / "train")))
    test = MiddleFrames(str(folder))
    train = LazySource(partial(_training, str(place / "train"), None, test.class_names))
    return EvaluationSet(test, names, SET_TEMPLATES["kinetics700"], train)


register("ucf101", _ucf101)
register("kinetics700", _kinetics700)
