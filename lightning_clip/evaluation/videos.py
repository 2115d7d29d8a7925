"""Features of the videos of a set, and those that cannot be read."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_clip.applications.video import encode_videos
from lightning_clip.core.errors import InputError, reason_of
from lightning_clip.data.sources import PairSource
from lightning_clip.model.predictor import Predictor

__all__ = ["VideoFeatures", "video_features"]

log = logging.getLogger(__name__)
_BATCH = 16  # videos whose frames are held


@dataclass
class VideoFeatures:
    """Features of N videos in the order of their source.

    Attributes:
        features: float32 (N, D) of unit length.
        index: int64 (N,), place in the source.
        label: int64 (N,), -1 where there is none.
        captions: of each video.
        skipped: place -> why a video cannot be read.
    """

    features: Tensor
    index: Tensor
    label: Tensor
    captions: list[tuple[str, ...]]
    skipped: dict[str, str] = field(default_factory=dict)


def video_features(predictor: Predictor, source: PairSource, limit: int | None = None) -> VideoFeatures:
    """Encodes column "video" of a source.

    Args:
        predictor: of a model that sees videos, or images.
        source: pairs with frames uint8 (T, 3, H, W) in that column.
        limit: videos at most; None for all.

    Raises:
        InputError: no video that can be read.
    """
    parts: list[Tensor] = []
    index: list[int] = []
    labels: list[int] = []
    captions: list[tuple[str, ...]] = []
    skipped: dict[str, str] = {}
    waiting: list[Tensor] = []
    for place in range(min(len(source), limit or len(source))):
        try:
            pair = source[place]
            frames = pair.columns.get("video")
        except (OSError, ValueError, KeyError) as error:
            skipped[source.place(place)] = reason_of(error)
            continue
        if frames is None:
            skipped[source.place(place)] = "no column 'video'"
            continue
        waiting.append(torch.as_tensor(frames))
        index.append(place)
        labels.append(-1 if pair.label is None else pair.label)
        captions.append(pair.captions)
        if len(waiting) == _BATCH:
            parts.append(encode_videos(predictor, waiting).float().cpu())
            waiting = []
    if waiting:
        parts.append(encode_videos(predictor, waiting).float().cpu())
    if skipped:
        where, reason = next(iter(skipped.items()))
        log.warning(
            "%d of %d videos cannot be read (the first: %s, %s)", len(skipped), len(skipped) + len(index), where, reason
        )
    if not parts:
        where, reason = next(iter(skipped.items()), ("it is empty", ""))
        raise InputError(f"the set has no video that can be read ({where}: {reason}): give a source with the column 'video'")
    return VideoFeatures(torch.cat(parts), torch.tensor(index), torch.tensor(labels), captions, skipped)
