"""Sampling rules: which frames of a video are looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lightning_clip.core.errors import InputError, nearest
from lightning_clip.core.settings import built, in_range, mapping

__all__ = ["RULES", "FrameSampling", "frame_places", "thinned"]

RULES = ("uniform", "head", "tail", "random")


@dataclass(frozen=True)
class FrameSampling:
    """Which frames of a video a tower sees, and how large.

    Args:
        frames: at most so many; a shorter video gives all that it has, and the batch a mask.
        sampling: "uniform" (evenly from the first to the last), "head" (the first ones), "tail" (the last ones), or "random": a
            random one of each of `frames` equal segments, for training (TSN, Wang et al. 2016). The first three are those of
            CLIP4Clip (Luo et al. 2021, arXiv 2104.08860).
        fps: look at so many frames a second only, before the rule chooses among them; 1 in CLIP4Clip. None looks at all.
        size: side in pixels of the square in the middle that is kept; None keeps frames as they are.

    Raises:
        InputError: a value out of range, or an unknown rule.

    Examples:
        >>> FrameSampling(frames=4).places(9)
        [0, 2, 5, 8]
    """

    frames: int = 12
    sampling: str = "uniform"
    fps: float | None = None
    size: int | None = 224

    def __post_init__(self) -> None:
        in_range("frames", self.frames, 1, whole=True)
        if self.sampling not in RULES:
            raise InputError(f"unknown sampling {self.sampling!r}: {nearest(str(self.sampling), RULES)}")
        if self.fps is not None:
            in_range("fps", self.fps, 0, open_low=True)
        if self.size is not None:
            in_range("size", self.size, 1, whole=True)

    @classmethod
    def of(cls, value: FrameSampling | Mapping[str, Any] | None) -> FrameSampling:
        """Settings from settings, a mapping, or None for the defaults."""
        return value if isinstance(value, cls) else built(cls, mapping(value, "frames"), "frames")

    def places(self, total: int, seconds: Sequence[float] | None = None) -> list[int]:
        """Places of the frames of a video, rising.

        Args:
            total: how many frames it has.
            seconds: when each is shown, rising; needed where `fps` is set.
        """
        kept = list(range(total)) if self.fps is None or seconds is None else thinned(seconds, self.fps)
        return [kept[place] for place in frame_places(len(kept), self.frames, self.sampling)]


def frame_places(total: int, most: int, rule: str = "uniform") -> list[int]:
    """At most so many of `total` places, rising; all where there are no more.

    Args:
        total: at least 0.
        most: at least 1.
        rule: one of `RULES`. "random" draws from torch's generator, which the loader seeds for each visit of a sample.

    Examples:
        >>> frame_places(10, 3), frame_places(10, 3, "head"), frame_places(10, 3, "tail"), frame_places(2, 3)
        ([0, 4, 9], [0, 1, 2], [7, 8, 9], [0, 1])
    """
    if total <= most:
        return list(range(total))
    if rule == "head":
        return list(range(most))
    if rule == "tail":
        return list(range(total - most, total))
    if rule == "random":
        draws = torch.rand(most).tolist()
        return [min(total - 1, int((number + draw) * total / most)) for number, draw in enumerate(draws)]
    return [int(place) for place in np.linspace(0, total - 1, num=most)]  # rounded down, as CLIP4Clip has it


def thinned(seconds: Sequence[float], fps: float) -> list[int]:
    """Places of the frames that are shown every 1 / fps seconds from the first one on.

    Args:
        seconds: when each frame is shown, rising.
        fps: above 0.

    Examples:
        >>> thinned([0.0, 0.4, 0.8, 1.2, 1.6, 2.0], fps=1)
        [0, 2, 5]
    """
    if not seconds:
        return []
    times = np.asarray(seconds) - seconds[0]
    ticks = np.arange(math.floor(times[-1] * fps + 1e-6) + 1) / fps
    # The frame that is on the screen at each tick.
    shown = np.searchsorted(times, ticks + 1e-6, side="right") - 1
    return list(dict.fromkeys(shown.tolist()))
