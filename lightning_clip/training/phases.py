"""Phases of a run: few image tokens or small images first, then all of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lightning_clip.core.errors import InputError
from lightning_clip.core.settings import built, in_range, mapping
from lightning_clip.core.types import PairBatch
from lightning_clip.model.space import SharedSpace

__all__ = ["Phase", "Phases", "phases_of", "smaller"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """What images a run sees until it has made a share of its steps.

    Args:
        until: share of the run's optimizer steps, in (0, 1).
        keep_tokens: share of an image's patches that the tower reads, in (0, 1] (FLIP, Li et al. 2023).
        image_size: side in pixels to which images are brought; None leaves them as they are (CLIPA, Li et al. 2023, arXiv
            2305.07017).
    """

    until: float
    keep_tokens: float = 1.0
    image_size: int | None = None

    def __post_init__(self) -> None:
        in_range("phases.until", self.until, 0, 1, open_low=True, open_high=True)
        in_range("phases.keep_tokens", self.keep_tokens, 0, 1, open_low=True)
        if self.image_size is not None:
            in_range("phases.image_size", self.image_size, 1, whole=True)


def phases_of(value: Any) -> tuple[Phase, ...]:
    """Phases from a list of mappings, in the order in which they follow each other; the rest of the run is as without them.

    Args:
        value: list of phases or mappings, or None.

    Raises:
        InputError: an unknown setting, or phases that do not follow each other.

    Examples:
        >>> phases_of([{"until": 0.8, "keep_tokens": 0.5}])
        (Phase(until=0.8, keep_tokens=0.5, image_size=None),)
    """
    if value is not None and not isinstance(value, list | tuple):
        raise InputError(f"training.phases {value!r} must be a list, such as [{{until: 0.8, keep_tokens: 0.5}}]")
    given = [item if isinstance(item, Phase) else mapping(item, "training.phases") for item in value or ()]
    for item in given:
        if isinstance(item, dict) and "until" not in item:
            raise InputError(f"training.phases has a phase {item} without 'until': add the share of the run at which it ends")
    found = tuple(item if isinstance(item, Phase) else built(Phase, item, "training.phases") for item in given)
    ends = [phase.until for phase in found]
    if ends != sorted(set(ends)):
        raise InputError(f"training.phases end at {ends} of the run: they must follow each other")
    return found


class Phases:
    """The phase that a run is in, which its step alone decides: a resumed run sees what the whole one would.

    Args:
        phases: in their order.
    """

    def __init__(self, phases: Sequence[Phase]) -> None:
        self.phases = tuple(phases)
        self._now: Phase | None = None
        self._steps = math.inf

    def start(self, trainer: pl.Trainer, model: SharedSpace) -> None:
        """Called before the first step.

        Args:
            trainer: that knows how long the run is.
            model: whose image tower is prepared.

        Raises:
            InputError: a run without an end, a tower that cannot, or a size above the tower's.
        """
        if not self.phases:
            return
        self._now, self._steps = None, trainer.estimated_stepping_batches
        if math.isinf(self._steps):
            raise InputError("training.phases are shares of a run, which has no end: set max_steps or max_epochs")
        tower: Any = model.tower("image")
        for phase in self.phases:
            if phase.image_size is not None:
                if phase.image_size > tower.image_size:
                    raise InputError(f"phases.image_size {phase.image_size} is above the image tower's {tower.image_size}")
                tower.take_sizes()
            if phase.keep_tokens < 1:
                tower.drop_tokens(1 - phase.keep_tokens)
                tower.drop_tokens(0.0)

    def proceed(self, trainer: pl.Trainer, model: SharedSpace) -> None:
        """Called before each batch: goes on to the phase of the coming step.

        Args:
            trainer: in training.
            model: as for `start`.
        """
        if not self.phases:
            return
        done = trainer.global_step / self._steps
        phase = next((phase for phase in self.phases if done < phase.until), None)
        if phase == self._now:
            return
        kept = [found.keep_tokens if found is not None else 1.0 for found in (self._now, phase)]
        if kept[0] != kept[1]:
            model.tower("image").drop_tokens(1 - kept[1])
        self._now = phase
        log.info("step %d: %s", trainer.global_step, "whole images" if phase is None else phase)

    def shrink(self, batch: PairBatch) -> PairBatch:
        """The batch with its images, and their further views, in the size of the phase.

        Args:
            batch: with pixels, or with features that were kept of them.
        """
        if self._now is None or self._now.image_size is None or not isinstance(batch.image, Tensor):
            return batch
        size = self._now.image_size
        views = {name: smaller(view, size) if name.startswith("view") else view for name, view in batch.columns.items()}
        return batch._replace(image=smaller(batch.image, size), columns=views)


def smaller(image: Tensor, size: int) -> Tensor:
    """Images (B, 3, H, W), uint8 or not -> (B, 3, size, size) of the same kind, averaged as antialiasing does.

    Args:
        image: on any device.
        size: in pixels.
    """
    found = interpolate(image.float(), (size, size), mode="bilinear", antialias=True, align_corners=False)
    return found.round_().clamp_(0, 255).to(torch.uint8) if image.dtype == torch.uint8 else found.to(image.dtype)
