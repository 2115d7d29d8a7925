"""Features of videos: by the model's video tower, or as the mean over frames where it has seen images alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_clip.core.errors import InputError, existing_path
from lightning_clip.core.settings import in_range
from lightning_clip.data.frame_places import FrameSampling
from lightning_clip.data.videos import read_video
from lightning_clip.encoders.video import masked_mean
from lightning_clip.model.predictor import Predictor

__all__ = ["VideoInput", "encode_videos", "frames_of", "pooled_frames"]

# A file, its bytes, or frames uint8 (T, 3, H, W).
VideoInput = str | Path | bytes | Tensor


def encode_videos(
    predictor: Predictor, videos: VideoInput | Iterable[VideoInput], rule: FrameSampling | None = None, batch_size: int = 16
) -> Tensor:
    """Unit features (N, D) of videos, comparable to those of texts.

    A model with a video tower uses it. A model of images and texts encodes each frame as an image, and the mean of the unit
    features is taken (CLIP4Clip's meanP without training; Portillo-Quintero et al. 2021, arXiv 2102.12443).

    Args:
        predictor: of a trained model.
        videos: one or several: files, their bytes, or frames uint8 (T, 3, H, W).
        rule: which frames of files are looked at; None takes 12 over the whole video at the model's size.
        batch_size: videos encoded at a time, at least 1.

    Raises:
        InputError: a video that cannot be read, or frames of another shape.

    Examples:
        >>> predictor = open_predictor("open_clip:ViT-B-32/openai")  # doctest: +SKIP
        >>> encode_videos(predictor, ["dance.mp4", "goal.mp4"]) @ predictor.encode_text(["a goal"]).T  # doctest: +SKIP
    """
    in_range("batch_size", batch_size, 1, whole=True)
    rule = rule or FrameSampling(size=predictor.image_size)
    several = [videos] if isinstance(videos, str | Path | bytes | Tensor) else videos
    parts = [_encoded(predictor, clips) for clips in _batches((frames_of(video, rule) for video in several), batch_size)]
    return torch.cat(parts) if parts else torch.empty(0, predictor.model.embed_dim, device=predictor.device)


def frames_of(video: Any, rule: FrameSampling) -> Tensor:
    """Frames uint8 (T, 3, H, W) of a video.

    Args:
        video: a file, its bytes, or frames, which are handed back.
        rule: which frames of a file.

    Raises:
        InputError: no video, a damaged one, or a tensor of another shape.
    """
    if isinstance(video, Tensor):
        if video.ndim != 4 or video.shape[1] != 3 or not len(video) or video.dtype != torch.uint8:
            raise InputError(f"a video of {video.dtype} {tuple(video.shape)} is none: give its frames as uint8 (T, 3, H, W)")
        return video
    name = repr(str(video)) if isinstance(video, str | Path) else "of bytes"
    if not isinstance(video, str | Path | bytes):
        raise InputError(f"a video of type {type(video).__name__} is none: give a path, bytes, or frames (T, 3, H, W)")
    try:
        return read_video(video if isinstance(video, bytes) else existing_path(video, "video"), rule)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"video {name} {error}: give an mp4, webm, mkv, avi or mov file that plays") from error


def pooled_frames(features: Tensor, counts: Sequence[int]) -> Tensor:
    """Unit features (N, D) of videos from those of their frames, one video's after the other's: the mean of each, normalised.

    Args:
        features: (sum of counts, D).
        counts: frames of each of N videos, each at least 1.
    """
    rows = torch.split(features, list(counts))
    mask = torch.arange(max(counts), device=features.device)[None, :] < torch.tensor(counts, device=features.device)[:, None]
    return masked_mean(torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True), mask)  # (N, T, D) -> (N, D)


def _encoded(predictor: Predictor, clips: list[Tensor]) -> Tensor:
    """Features (B, D) of B videos."""
    if "video" in predictor.model.columns:
        if len({clip.shape[2:] for clip in clips}) == 1:
            return predictor.encode("video", clips, batch_size=len(clips))
        return torch.cat([predictor.encode("video", [clip], batch_size=1) for clip in clips])
    frames: Any = [frame for clip in clips for frame in clip]
    return pooled_frames(predictor.encode_image(frames), [len(clip) for clip in clips])


def _batches(clips: Iterator[Tensor], size: int) -> Iterator[list[Tensor]]:
    while part := list(islice(clips, size)):
        yield part
