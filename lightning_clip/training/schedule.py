"""The learning rate of a run: warm-up, plateau and decay, and which of them a resumed run follows."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_clip.core.errors import InputError

__all__ = ["RateShape", "RunSchedule", "share_of_peak"]

log = logging.getLogger(__name__)
_RATES = ("initial_lr", "weight_decay", "betas", "eps", "momentum")
_OF_THIS_RUN = ("_given", "_factor", "_on_resume", "_run_steps")
_WORDS = {
    "initial_lr": "lr",
    "warmup_steps": "warmup_steps",
    "total_steps": "optimizer steps of the run",
    "final_ratio": "final_lr / lr",
}


def share_of_peak(
    step: int, warmup_steps: int, total_steps: float, final_ratio: float = 0.0, decay_share: float | None = None
) -> float:
    """Learning rate at optimizer step `step` (0-based) as a share of the peak.

    Args:
        step: of the run.
        warmup_steps: of linear warm-up.
        total_steps: of the run; infinity keeps the peak after the warm-up.
        final_ratio: the share at the end.
        decay_share: None falls by a cosine from the warm-up on; otherwise the peak is kept until this last share of the run,
            in which the rate falls by 1 - sqrt.

    Examples:
        >>> [round(share_of_peak(step, 2, 6), 3) for step in range(7)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
        >>> [round(share_of_peak(step, 2, 8, decay_share=0.5), 3) for step in range(9)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5, 0.293, 0.134, 0.0]
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if math.isinf(total_steps):
        return 1.0
    start = warmup_steps if decay_share is None else max(warmup_steps, total_steps * (1 - decay_share))
    progress = min(1.0, max(0.0, step - start) / max(1, total_steps - start))
    left = 0.5 * (1 + math.cos(math.pi * progress)) if decay_share is None else 1 - math.sqrt(progress)
    return final_ratio + (1 - final_ratio) * left


@dataclass
class RateShape:
    """`share_of_peak` of one run; an object, whose numbers a checkpoint holds, as torch's `LambdaLR` stores them.

    Args:
        warmup_steps: optimizer steps of linear warm-up.
        total_steps: of the run; infinity keeps the peak after the warm-up.
        final_ratio: learning rate at the end as a share of the peak.
        decay_share: of the run, in which it falls from the peak; None falls by a cosine from the warm-up on.
    """

    warmup_steps: int
    total_steps: float
    final_ratio: float
    decay_share: float | None = None

    def __call__(self, step: int) -> float:
        """The share of the peak at a step."""
        return share_of_peak(step, self.warmup_steps, self.total_steps, self.final_ratio, self.decay_share)


class RunSchedule(LambdaLR):
    """The schedule of a run; one that goes on from a checkpoint says where the settings have changed.

    Args:
        optimizer: whose groups hold the peaks.
        factor: the share of the peak at each step.
        on_resume: "stored" goes on with the rates and the schedule of the checkpoint, "given" with those given now.
        run_steps: optimizer steps that this run will have had at its end, maybe infinite.
    """

    def __init__(self, optimizer: Optimizer, factor: RateShape, on_resume: str, run_steps: float) -> None:
        super().__init__(optimizer, factor)
        self._given = [{key: group[key] for key in _RATES if key in group} for group in optimizer.param_groups]
        self._factor, self._on_resume, self._run_steps = factor, on_resume, run_steps

    def state_dict(self) -> dict[str, Any]:
        """As torch's, without what only this run knows."""
        return {key: value for key, value in super().state_dict().items() if key not in _OF_THIS_RUN}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up a checkpoint's place in the schedule; the optimizer was restored before.

        Raises:
            InputError: the stored schedule has fallen to 0 before this run ends, and is to be followed.
        """
        given = dict(vars(self._factor))
        super().load_state_dict(state_dict)
        changes = self._changes(given)
        if self._on_resume == "given":
            vars(self._factor).update(given)
            self._apply_given()
        if not changes:
            return
        if self._on_resume == "stored":
            self._check_end()
        followed = (
            "goes on with those of the checkpoint. To go on with the new ones, set training.optimizer.on_resume to 'given'"
            if self._on_resume == "stored"
            else f"goes on with the new ones: its learning rate is now {max(self.get_last_lr()):g}"
        )
        log.warning("the checkpoint was written under other settings (%s): this run %s", "; ".join(changes), followed)

    def _changes(self, given: Mapping[str, Any]) -> list[str]:
        """What the checkpoint has otherwise, in words."""
        pairs = [
            (key, group[key], mine[key])
            for group, mine in zip(self.optimizer.param_groups, self._given, strict=True)
            for key in mine
        ] + [(key, vars(self._factor)[key], given[key]) for key in given]
        told = [
            f"{_WORDS.get(key, key)} was {_short(was)} and is {_short(now)}" for key, was, now in pairs if not _same(was, now)
        ]
        return list(dict.fromkeys(told))

    def _apply_given(self) -> None:
        """Puts rates and decay as they are given now into the optimizer, at the place that the run has reached."""
        self.base_lrs = [mine["initial_lr"] for mine in self._given]
        for group, mine in zip(self.optimizer.param_groups, self._given, strict=True):
            group.update(mine, lr=mine["initial_lr"] * self._factor(self.last_epoch))
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _check_end(self) -> None:
        end = self._factor.total_steps
        if self._factor.final_ratio == 0 and end < self._run_steps:
            raise InputError(
                f"the checkpoint's schedule falls to a learning rate of 0 at optimizer step {end:g}, and this run goes on to "
                f"step {self._run_steps:g}, from there on without learning anything: set training.optimizer.on_resume to "
                f"'given' for a schedule over all {self._run_steps:g} steps, or let the run end at step {end:g}"
            )


def _same(was: Any, now: Any) -> bool:
    return tuple(was) == tuple(now) if isinstance(now, tuple | list) else bool(was == now)


def _short(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:g}" if isinstance(value, int | float) else str(tuple(value))
