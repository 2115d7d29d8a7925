"""Frames of videos as pictures, for searching videos by what they show."""

from __future__ import annotations

from pathlib import PurePosixPath

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import in_range
from lightning_clip.core.types import Pair
from lightning_clip.data.file_tree import FileTree
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.sources.base import PairSource, pair_sources
from lightning_clip.data.sources.row_store import Rows
from lightning_clip.data.sources.video_files import described_videos
from lightning_clip.data.videos import VideoFrames, check_av, is_video, read_frames

__all__ = ["VideoPictures", "video_of"]

_TIME = "#t="  # as media fragments of the web have it


@pair_sources.register("video_frames")
class VideoPictures(PairSource):
    """Frames of all videos of a folder or zip file, each a picture: `frames` of each video, evenly from its first to its last.

    A frame's key is the video's name with the time, such as `dance.mp4#t=12.4`; its captions are the lines of `dance.txt`, if
    there is such a file. A video of fewer frames repeats its last one. The frames of one video are read at once when the first
    of them is asked for.

    Args:
        path: of the folder or zip file.
        frames: of each video, at least 1.

    Raises:
        InputError: no video file, a wrong number, or PyAV is not installed.
    """

    layout = "frames of videos"

    def __init__(self, path: str, frames: int = 8) -> None:
        check_av()
        in_range("video_frames: frames", frames, 1, whole=True)
        self.frames = frames
        self._tree = FileTree(path)
        names = self._tree.names()
        videos = [name for name in names if is_video(name)]
        if not videos:
            raise InputError(f"{path!r} holds no video files")
        texts = {row["file"]: row["captions"] for row in described_videos(self._tree, videos, set(names))}
        self._rows = Rows([{"file": name, "captions": texts.get(name, [])} for name in videos])
        self._read: tuple[int, VideoFrames | ValueError] | None = None

    def __len__(self) -> int:
        return len(self._rows) * self.frames

    def captions(self, index: int) -> tuple[str, ...]:
        return tuple(self._rows[index // self.frames]["captions"])

    def label(self, index: int) -> None:
        return None

    def place(self, index: int) -> str:
        return f"{self._tree.path / self._rows[index // self.frames]['file']}, frame {index % self.frames + 1} of {self.frames}"

    def __getitem__(self, index: int) -> Pair:
        if not 0 <= index < len(self):
            raise IndexError(index)
        name = self._rows[index // self.frames]["file"]
        found = self._frames(index // self.frames)
        number = min(index % self.frames, len(found.seconds) - 1)
        seconds = found.seconds[number]
        place = f"{self._tree.path / PurePosixPath(name)} at {int(seconds) // 60}:{int(seconds) % 60:02d}"
        return Pair(
            found.pixels[number],
            self.captions(index),
            f"{name}{_TIME}{seconds:.2f}",
            metadata={"place": place, "time": seconds},
        )

    def _frames(self, video: int) -> VideoFrames:
        """Those of a video, kept until another one is asked for."""
        if self._read is None or self._read[0] != video:
            try:
                content = self._tree.read(self._rows[video]["file"])
                self._read = video, read_frames(content, FrameSampling(self.frames, size=None))
            except ValueError as error:  # of which the next frames need not be told by decoding again
                self._read = video, error
        found = self._read[1]
        if isinstance(found, ValueError):
            raise found
        return found


def video_of(key: str) -> str | None:
    """The video that a key of such a frame belongs to; None for other keys.

    Examples:
        >>> video_of("trips/dance.mp4#t=12.40"), video_of("trips/dance.jpg")
        ('trips/dance.mp4', None)
    """
    video, sign, _ = key.rpartition(_TIME)
    return video if sign and is_video(video) else None
