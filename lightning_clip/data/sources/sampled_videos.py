"""Videos of any source, with the frames that a rule chooses: what training sees of a file differs from evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from lightning_clip.core.errors import InputError
from lightning_clip.core.types import Pair
from lightning_clip.data.column_files import ColumnFile, Columns
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.sources.base import pair_sources
from lightning_clip.data.sources.wrapped import WrappedSource
from lightning_clip.data.videos import check_av

__all__ = ["SampledVideos"]


@pair_sources.register("sampled_videos")
class SampledVideos(WrappedSource):
    """Another source whose video column has the frames that are asked for here.

    Use it around tables, shards and data sets: `{name: sampled_videos, source: {name: clips.csv, image_column: null, columns:
    {video: file}}, frames: 8, sampling: random}`. The column may hold files of videos, or arrays of frames (T, 3, H, W).

    Args:
        source: what any source may be.
        frames: at most so many.
        sampling: "uniform", "head", "tail", or "random" for training, see `FrameSampling`.
        fps: frames a second among which the rule chooses; None for all.
        size: side in pixels of the square in the middle that is kept of files; arrays are as they are.
        column: that holds the videos.

    Raises:
        InputError: a value out of range, or PyAV is not installed.

    Examples:
        >>> clips = SampledVideos({"name": "moving_shapes", "size": 4}, frames=3, sampling="head")
        >>> clips[0].columns["video"].shape
        torch.Size([3, 3, 32, 32])
    """

    def __init__(
        self,
        source: Any,
        *,
        frames: int = 12,
        sampling: str = "uniform",
        fps: float | None = None,
        size: int = 224,
        column: str = "video",
    ) -> None:
        check_av()
        self.rule, self.column = FrameSampling(frames, sampling, fps, size), column
        super().__init__(pair_sources.build(source))

    def __getitem__(self, index: int) -> Pair:
        return self._sampled(self.source[index])

    def visited(self, epoch: int, index: int) -> Pair:
        return self._sampled(self.source.visited(epoch, index))

    def _sampled(self, pair: Pair) -> Pair:
        if self.column not in pair.columns:
            return pair  # the loader says which columns there are
        files = pair.columns.files() if isinstance(pair.columns, Columns) else {}
        values: dict[str, Any] = {**{name: pair.columns[name] for name in pair.columns if name not in files}, **files}
        found = values[self.column]
        values[self.column] = found.sampled(self.rule) if isinstance(found, ColumnFile) else self._of_array(found)
        return replace(pair, columns=Columns(values))

    def _of_array(self, value: Any) -> Any:
        frames = torch.as_tensor(value)  # (T, 3, H, W)
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise InputError(f"column {self.column!r} has shape {tuple(frames.shape)}: frames are uint8 (T, 3, H, W)")
        rule = replace(self.rule, fps=None)  # nothing tells when they are shown
        return frames[rule.places(len(frames))]
