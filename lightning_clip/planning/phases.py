"""Costs of a run that sees few image tokens, or small images, in its first phases and whole images in the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lightning_clip.core.errors import InputError
from lightning_clip.planning.flops import Flops
from lightning_clip.planning.towers import FakeClip, TowerCost
from lightning_clip.training.phases import Phase

__all__ = ["PhaseCost", "mean_costs", "measure_phases"]


@dataclass(frozen=True)
class PhaseCost:
    """One phase of a run.

    Args:
        share: of the run's samples, in (0, 1].
        phase: what images are in it; None for whole ones.
        towers: costs in it.
    """

    share: float
    phase: Phase | None
    towers: tuple[TowerCost, ...]

    @property
    def flops(self) -> Flops:
        """Of all towers, per sample."""
        return sum((tower.flops for tower in self.towers), Flops())


def measure_phases(
    fake: FakeClip, phases: Sequence[Phase], image_size: int, measured: Callable[[int], tuple[TowerCost, ...]]
) -> tuple[PhaseCost, ...]:
    """Costs in each phase, the rest of the run last.

    Args:
        fake: of `fake_clip`; its image tower is left as it was.
        phases: of the training settings.
        image_size: side in pixels outside phases.
        measured: an image size -> costs of all towers.

    Raises:
        InputError: a size above the tower's, or a tower that can neither drop tokens nor take smaller images.
    """
    found, begun = [], 0.0
    for phase in phases:
        tower: Any = fake.model.tower("image")
        if phase.image_size is not None:
            if phase.image_size > tower.image_size:
                raise InputError(f"phases.image_size {phase.image_size} is above the image tower's {tower.image_size}")
            tower.take_sizes()
        if phase.keep_tokens < 1:
            tower.drop_tokens(1 - phase.keep_tokens)
        found.append(PhaseCost(phase.until - begun, phase, measured(phase.image_size or image_size)))
        if phase.keep_tokens < 1:
            tower.drop_tokens(0.0)
        begun = phase.until
    return (*found, PhaseCost(1 - begun, None, measured(image_size)))


def mean_costs(phases: Sequence[PhaseCost]) -> tuple[TowerCost, ...]:
    """FLOPs per sample over the whole run; memory is that of whole images.

    Args:
        phases: of `measure_phases`.
    """
    return tuple(
        replace(last, flops=sum((own.flops * phase.share for phase, own in zip(phases, costs, strict=True)), Flops()))
        for costs, last in zip(zip(*(phase.towers for phase in phases), strict=True), phases[-1].towers, strict=True)
    )
